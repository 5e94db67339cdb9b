(** Numbers of the book, enclosed by the tactic [interval]: it computes with the machine's integers and floats, whose
    specification in the standard library these theorems assume besides the real numbers. *)

From Coq Require Import Reals Lra.
From Coquelicot Require Import Coquelicot.
From Interval Require Import Tactic.
Open Scope R_scope.

(** [thm-rn-turn] Part 3 in numbers: the bound for half a turn is 1 for three blocks, which no [L < 1] reaches, and
    between 0.765 and 0.766 for four. *)
Theorem rn_turn_half : 2 * sin (PI / (2 * 3)) = 1 /\ 0.765 < 2 * sin (PI / (2 * 4)) < 0.766.
Proof.
  split.
  - replace (PI / (2 * 3)) with (PI / 6) by field. rewrite sin_PI6. field.
  - split; interval.
Qed.

(** [thm-rn-lift] Part 3 in numbers: for the stretch 3 and four blocks the bound exceeds 0.97, the [L] of the book's
    networks. *)
Theorem rn_lift_four : 0.97 < 2 * sin ((PI + asin ((3^2 - 1) / (3^2 + 1))) / (2 * 4)) < 0.974.
Proof.
  assert (angle : 0.9272 < asin ((3^2 - 1) / (3^2 + 1)) < 0.9273).
  { replace ((3^2 - 1) / (3^2 + 1)) with (4 / 5) by field. rewrite asin_atan by lra.
    replace (4 / 5 / sqrt (1 - (4 / 5)^2)) with (4 / 3).
    - split; interval.
    - replace (1 - (4 / 5)^2) with ((3 / 5) * (3 / 5)) by field. rewrite sqrt_square; field_simplify; lra. }
  set (beta := asin _) in *. split; interval.
Qed.
