(** Three exercises. Replace each comment by a proof, and [Abort] by [Qed]; [Solutions.v] has one for each. *)

From Coq Require Import List.
From Book Require Import Filters Bayes Networks.
Open Scope R_scope.

(** 1. Two blocks with a bound [L], averaged, are a block with this bound. *)
Theorem average_of_blocks n L f g u : 0 <= u <= 1 -> lipschitz n L f -> lipschitz n L g ->
  lipschitz n L (fun x => u * f x + (1 - u) * g x)%V.
Proof.
  (* your proof: [norm_equal], [norm_plus] and [norm_scale] *)
Abort.

(** 2. On the line and for a Gaussian prior, Wiener's filter minimizes the MAP objective. *)
Theorem wiener_is_map h d s z x : 0 < h -> 0 < d -> 0 < s ->
  let objective u := / 2 * h * u^2 - z * u + d^2 * u^2 / (2 * s^2) in
  objective (z / (h + d^2 / s^2)) <= objective x.
Proof.
  (* your proof: complete the square *)
Abort.

(** 3. The composition of two blocks with [L] and [l] differs from the identity by a map
    with the bound [L + l + L l]. *)
Theorem composition_of_blocks n L l f g : 0 <= L -> 0 <= l -> lipschitz n L f -> lipschitz n l g ->
  lipschitz n (L + l + L * l) (fun x => block g (block f x) - x)%V.
Proof.
  (* your proof: [rn_banach_bounds] for the inner block, then [norm_equal] and [norm_plus] *)
Abort.
