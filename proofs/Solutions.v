(** Solutions of the exercises. *)

From Coq Require Import List.
From Book Require Import Filters Bayes Networks.
Open Scope R_scope.

(** 1. Two blocks with a bound [L], averaged, are a block with this bound. *)
Theorem average_of_blocks n L f g u : 0 <= u <= 1 -> lipschitz n L f -> lipschitz n L g ->
  lipschitz n L (fun x => u * f x + (1 - u) * g x)%V.
Proof.
  intros inside lip_f lip_g a b. specialize (lip_f a b). specialize (lip_g a b).
  rewrite (norm_equal n _ (u * (f a - f b) + (1 - u) * (g a - g b))%V)
    by (intros i _; unfold minus, plus, scale; ring).
  eapply Rle_trans; [apply norm_plus|]. rewrite !norm_scale, !Rabs_right by lra. nra.
Qed.

(** 2. On the line and for a Gaussian prior, Wiener's filter minimizes the MAP objective. *)
Theorem wiener_is_map h d s z x : 0 < h -> 0 < d -> 0 < s ->
  let objective u := / 2 * h * u^2 - z * u + d^2 * u^2 / (2 * s^2) in
  objective (z / (h + d^2 / s^2)) <= objective x.
Proof.
  intros h_pos d_pos s_pos objective.
  assert (0 < s^2) by nra. assert (0 < d^2) by nra.
  assert (0 < d^2 / s^2) by (apply Rdiv_lt_0_compat; lra).
  set (p := h + d^2 / s^2) in *. assert (0 < p) by (unfold p; lra).
  assert (square : forall u, objective u = / 2 * p * (u - z / p)^2 - z^2 / (2 * p)).
  { intro u. transitivity (/ 2 * p * u^2 - z * u); [unfold objective, p|]; field; lra. }
  rewrite !square. pose proof (pow2_ge_0 (x - z / p)).
  replace (z / p - z / p) with 0 by ring. nra.
Qed.

(** 3. The composition of two blocks with [L] and [l] differs from the identity by a map
    with the bound [L + l + L l]. *)
Theorem composition_of_blocks n L l f g : 0 <= L -> 0 <= l -> lipschitz n L f -> lipschitz n l g ->
  lipschitz n (L + l + L * l) (fun x => block g (block f x) - x)%V.
Proof.
  intros L_pos l_pos lip_f lip_g a b.
  pose proof (rn_banach_bounds n L f a b lip_f) as [_ stretch].
  specialize (lip_f a b). specialize (lip_g (block f a) (block f b)).
  rewrite (norm_equal n _ ((f a - f b) + (g (block f a) - g (block f b)))%V)
    by (intros i _; unfold block, minus, plus; ring).
  eapply Rle_trans; [apply norm_plus|]. nra.
Qed.
