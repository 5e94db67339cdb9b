(** Residual blocks: slopes, bounds, inverses and their errors, on R^n. *)

From Coq Require Import List.
From Coquelicot Require Import Coquelicot.
From Book Require Export Vectors.
From Book Require Import Bayes.
Open Scope R_scope.

(** ** The activation *)

Definition sigma (t : R) := sqrt (t^2 + / 4) - / 2.

Lemma root_more t : Rabs t < sqrt (t^2 + / 4).
Proof.
  rewrite <- (sqrt_Rsqr_abs t). apply sqrt_lt_1_alt. unfold Rsqr. nra.
Qed.

(** [prop-rn-certificate] The slope of the activation of the book, and its bound [s = 1]. *)
Theorem rn_certificate_slope t :
  is_derive sigma t (t / sqrt (t^2 + / 4)) /\ Rabs (t / sqrt (t^2 + / 4)) < 1.
Proof.
  pose proof (root_more t) as more. pose proof (Rabs_pos t). split.
  - unfold sigma. auto_derive; [nra|]. replace (t * (t * 1)) with (t^2) by ring. field. lra.
  - rewrite Rabs_div, (Rabs_right (sqrt _)) by lra. apply Rmult_lt_reg_r with (sqrt (t^2 + / 4)); [lra|].
    field_simplify; lra.
Qed.

Lemma sigma_lipschitz a b : Rabs (sigma a - sigma b) <= Rabs (a - b).
Proof.
  pose proof (root_more a). pose proof (root_more b). unfold sigma.
  set (p := sqrt (a^2 + / 4)) in *. set (q := sqrt (b^2 + / 4)) in *.
  assert (p * p = a^2 + / 4) by (apply sqrt_sqrt; nra).
  assert (q * q = b^2 + / 4) by (apply sqrt_sqrt; nra).
  pose proof (Rabs_pos a). pose proof (Rabs_pos b). pose proof (Rabs_triang a b).
  apply Rmult_le_reg_r with (p + q); [lra|].
  replace (Rabs (p - / 2 - (q - / 2)) * (p + q)) with (Rabs (a - b) * Rabs (a + b)).
  - apply Rmult_le_compat_l; [apply Rabs_pos|lra].
  - rewrite <- (Rabs_right (p + q)) at 1 by lra. rewrite <- !Rabs_mult. f_equal. nra.
Qed.

(** [prop-rn-budget] The curvature of the activation is at most 2. *)
Theorem rn_budget_curvature t :
  is_derive (fun u => u / sqrt (u^2 + / 4)) t (/ (4 * (sqrt (t^2 + / 4))^3)) /\
  0 < / (4 * (sqrt (t^2 + / 4))^3) <= 2.
Proof.
  set (r := sqrt (t^2 + / 4)).
  assert (square : r * r = t^2 + / 4) by (apply sqrt_sqrt; nra).
  assert (half : / 2 <= r).
  { assert (0 <= r) by apply sqrt_pos. destruct (Rle_lt_dec (/ 2) r); nra. }
  split.
  - auto_derive; [split; [nra|]|]; replace (t * (t * 1)) with (t^2) by ring; fold r; [lra|].
    field_simplify_eq; [|lra]. replace (r^4) with ((r * r) * (r * r)) by ring.
    replace (r^2) with (r * r) by ring. rewrite square. field.
  - assert (/ 8 <= r^3) by (replace (/ 8) with ((/ 2)^3) by field; apply pow_incr; lra).
    split; [apply Rinv_0_lt_compat; lra|].
    apply Rle_trans with (/ (/ 2)); [apply Rinv_le_contravar|rewrite Rinv_inv]; lra.
Qed.

(** [prop-rn-budget] Part 2: with layers of norms at most [w], [w^3 = L < 1], the bound on the curvature is below 4. *)
Theorem rn_budget_four w w1 w2 w3 : w^3 < 1 -> 0 <= w1 <= w -> 0 <= w2 <= w -> 0 <= w3 <= w ->
  2 * (w1 * w2 * w3) * w1 * (1 + w2) < 4.
Proof.
  intros below one two three. assert (w < 1).
  { destruct (Rlt_le_dec w 1) as [|above]; auto. assert (1^3 <= w^3) by (apply pow_incr; lra). lra. }
  assert (0 <= w1 * w2 < 1) by nra. assert (0 <= w1 * w2 * w3 < 1) by nra.
  assert (0 <= w1 * w2 * w3 * w1 < 1) by nra. nra.
Qed.

(** ** One block *)

Section Block.
Variable n : nat.
Implicit Types a b x z : vector.

Definition lipschitz L (f : vector -> vector) :=
  forall a b, norm n (f a - f b)%V <= L * norm n (a - b)%V.
Definition block (f : vector -> vector) : vector -> vector := fun x => (x + f x)%V.

Lemma lipschitz_compose L l f g : 0 <= L ->
  lipschitz L f -> lipschitz l g -> lipschitz (L * l) (fun x => f (g x)).
Proof.
  intros L_pos lip_f lip_g a b. eapply Rle_trans; [apply lip_f|].
  specialize (lip_g a b). rewrite Rmult_assoc. now apply Rmult_le_compat_l.
Qed.

Lemma lipschitz_activation : lipschitz 1 (fun a i => sigma (a i)).
Proof.
  intros a b. rewrite Rmult_1_l. apply norm_le; [apply norm_nonneg|]. rewrite norm_square.
  apply sum_le. intros i _. unfold minus. apply Rsqr_le_abs_1, sigma_lipschitz.
Qed.

Lemma lipschitz_layer w M b : (forall x, norm n (apply n M x) <= w * norm n x) ->
  lipschitz w (fun x => apply n M x + b)%V.
Proof.
  intros bound x y. eapply Rle_trans; [|apply bound]. right. apply norm_equal. intros i small.
  rewrite (apply_minus n M x y i small). unfold minus, plus. ring.
Qed.

(** [prop-rn-certificate] Part 1 for the activation of the book ([s = 1]) and layers of one width: the product of the
    norms bounds the branch. *)
Theorem rn_certificate_branch w1 w2 w3 M1 M2 M3 b1 b2 b3 : 0 <= w1 -> 0 <= w2 -> 0 <= w3 ->
  (forall x, norm n (apply n M1 x) <= w1 * norm n x) ->
  (forall x, norm n (apply n M2 x) <= w2 * norm n x) ->
  (forall x, norm n (apply n M3 x) <= w3 * norm n x) ->
  let layer M b x := (apply n M x + b)%V in
  let act x := fun i => sigma (x i) in
  lipschitz (w3 * w2 * w1) (fun x => layer M3 b3 (act (layer M2 b2 (act (layer M1 b1 x))))).
Proof.
  intros pos1 pos2 pos3 one two three layer act.
  replace (w3 * w2 * w1) with (w3 * (1 * (w2 * (1 * w1)))) by ring.
  apply (lipschitz_compose _ _ (layer M3 b3)); [auto|now apply lipschitz_layer|].
  apply (lipschitz_compose _ _ act); [lra|apply lipschitz_activation|].
  apply (lipschitz_compose _ _ (layer M2 b2)); [auto|now apply lipschitz_layer|].
  apply (lipschitz_compose _ _ act); [lra|apply lipschitz_activation|now apply lipschitz_layer].
Qed.

Lemma block_minus f a b : equal n (block f a - block f b)%V ((a - b) + (f a - f b))%V.
Proof. intros i _. unfold block, minus, plus. ring. Qed.

(** [thm-rn-banach] Part 1: a block stretches distances by factors between [1 - L] and [1 + L]. *)
Theorem rn_banach_bounds L f a b : lipschitz L f ->
  (1 - L) * norm n (a - b)%V <= norm n (block f a - block f b)%V <= (1 + L) * norm n (a - b)%V.
Proof.
  intro lip. specialize (lip a b). rewrite (norm_equal n _ _ (block_minus f a b)).
  pose proof (norm_plus n (a - b)%V (f a - f b)%V). split; [|lra].
  pose proof (norm_triangle n (a - b)%V ((a - b) - ((a - b) + (f a - f b)))%V (fun _ => 0)) as back.
  rewrite (norm_equal n ((a - b) - (fun _ => 0))%V (a - b)%V) in back by (intros i _; unfold minus; ring).
  rewrite (norm_equal n ((a - b) - ((a - b) - ((a - b) + (f a - f b))))%V ((a - b) + (f a - f b))%V) in back
    by (intros i _; unfold minus, plus; ring).
  rewrite (norm_equal n (((a - b) - ((a - b) + (f a - f b))) - (fun _ => 0))%V (-1 * (f a - f b))%V) in back
    by (intros i _; unfold minus, plus, scale; ring).
  rewrite norm_scale, Rabs_left in back by lra. lra.
Qed.

(** [thm-rn-banach] Part 2: a block is injective. *)
Theorem rn_banach_injective L f a b : lipschitz L f -> L < 1 ->
  equal n (block f a) (block f b) -> equal n a b.
Proof.
  intros lip less same. apply norm_zero.
  pose proof (rn_banach_bounds L f a b lip) as [low _].
  replace (norm n (block f a - block f b)%V) with 0 in low.
  - pose proof (norm_nonneg n (a - b)%V). nra.
  - symmetry. unfold norm. rewrite dot_minus, (dot_equal n _ _ _ same), Rminus_diag_eq; auto. apply sqrt_0.
Qed.

Definition compose (blocks : list (vector -> vector)) x := fold_left (fun y f => block f y) blocks x.
Definition product (factors : list R) := fold_right Rmult 1 factors.

Lemma product_nonneg (g : R -> R) limits :
  (forall l, In l limits -> 0 <= g l) -> 0 <= product (map g limits).
Proof.
  induction limits as [|l limits IH]; intro pos; simpl; [lra|].
  apply Rmult_le_pos; [apply pos; now left|]. apply IH. intros m inside. apply pos. now right.
Qed.

(** [thm-rn-banach] Part 5: bounds of a composition of blocks, by induction on their number. *)
Theorem rn_banach_composition branches limits : Forall2 lipschitz limits branches ->
  (forall L, In L limits -> 0 <= L < 1) -> forall a b,
  product (map (fun L => 1 - L) limits) * norm n (a - b)%V <=
  norm n (compose branches a - compose branches b)%V /\
  norm n (compose branches a - compose branches b)%V <=
  product (map (fun L => 1 + L) limits) * norm n (a - b)%V.
Proof.
  intros lips. induction lips as [|L f limits branches lip lips IH]; intros less a b; simpl; [lra|].
  assert (L_inside : 0 <= L < 1) by (apply less; now left).
  assert (less' : forall l, In l limits -> 0 <= l < 1) by (intros l inside; apply less; now right).
  specialize (IH less' (block f a) (block f b)).
  pose proof (rn_banach_bounds L f a b lip) as [low high].
  assert (0 <= product (map (fun L => 1 - L) limits)) by
    (apply product_nonneg; intros l inside; specialize (less' l inside); lra).
  assert (0 <= product (map (fun L => 1 + L) limits)) by
    (apply product_nonneg; intros l inside; specialize (less' l inside); lra).
  destruct IH as [IH_low IH_high]. split; nra.
Qed.

(** ** Its inverse *)

Fixpoint iterate (f : vector -> vector) z x0 (j : nat) : vector :=
  match j with O => x0 | S i => (z - f (iterate f z x0 i))%V end.

(** [thm-rn-banach] Part 3: after [j] steps the distance to a solution is at most [L^j] times the first one. *)
Theorem rn_banach_iteration L f z x0 best j : 0 <= L -> lipschitz L f -> equal n (block f best) z ->
  norm n (iterate f z x0 j - best)%V <= L^j * norm n (x0 - best)%V.
Proof.
  intros L_pos lip solves. induction j as [|j IH]; simpl; [lra|].
  apply Rle_trans with (norm n (f best - f (iterate f z x0 j))%V).
  - right. apply norm_equal. intros i small. specialize (solves i small).
    unfold block, plus, minus in *. lra.
  - eapply Rle_trans; [apply lip|]. rewrite norm_swap. nra.
Qed.

(** [thm-rn-banach] Part 3: the bound from the first step, which is known after one step. *)
Theorem rn_banach_first_step L f z x0 best j : 0 <= L < 1 -> lipschitz L f -> equal n (block f best) z ->
  norm n (iterate f z x0 j - best)%V <= L^j / (1 - L) * norm n (iterate f z x0 1 - x0)%V.
Proof.
  intros inside lip solves.
  pose proof (rn_banach_iteration L f z x0 best j ltac:(lra) lip solves) as far.
  pose proof (rn_banach_iteration L f z x0 best 1 ltac:(lra) lip solves) as one.
  pose proof (norm_triangle n x0 (iterate f z x0 1) best) as split_up.
  rewrite (norm_swap n x0 (iterate f z x0 1)) in split_up. rewrite pow_1 in one.
  assert (near : norm n (x0 - best)%V <= norm n (iterate f z x0 1 - x0)%V / (1 - L)).
  { apply Rmult_le_reg_r with (1 - L); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l; lra. }
  assert (0 <= L^j) by (apply pow_le; lra).
  replace (L^j / (1 - L) * norm n (iterate f z x0 1 - x0)%V)
    with (L^j * (norm n (iterate f z x0 1 - x0)%V / (1 - L))) by (field; lra). nra.
Qed.

(** [prop-rn-bound] The error of a computed inverse lies between the residual divided by either bound. *)
Theorem rn_bound_residual (phi : vector -> vector) low high x best z : 0 < low -> 0 < high ->
  (forall a b, low * norm n (a - b)%V <= norm n (phi a - phi b)%V <= high * norm n (a - b)%V) ->
  equal n (phi best) z ->
  norm n (phi x - z)%V / high <= norm n (x - best)%V <= norm n (phi x - z)%V / low.
Proof.
  intros low_pos high_pos stretch solves. specialize (stretch x best).
  rewrite (norm_equal n (phi x - z)%V (phi x - phi best)%V)
    by (intros i small; unfold minus; now rewrite solves).
  split; [apply Rmult_le_reg_r with high|apply Rmult_le_reg_r with low]; try lra; field_simplify; lra.
Qed.

(** [prop-rn-newton] Part 1: the fixed-point step multiplies the residual by at most [L]. *)
Theorem rn_newton_fallback L f z x : lipschitz L f ->
  let r y := (block f y - z)%V in norm n (r (x - r x)%V) <= L * norm n (r x).
Proof.
  intros lip r. rewrite (norm_equal n (r (x - r x)%V) (f (x - r x) - f x)%V)
    by (intros i _; unfold r, block, plus, minus; ring).
  eapply Rle_trans; [apply lip|]. right. f_equal.
  rewrite (norm_equal n ((x - r x) - x)%V (-1 * r x)%V) by (intros i _; unfold minus, scale; ring).
  rewrite norm_scale, Rabs_left; lra.
Qed.

(** [prop-rn-one] Part 1: a block is strongly monotone. *)
Theorem rn_one_monotone L f a b : lipschitz L f ->
  (1 - L) * dot n (a - b)%V (a - b)%V <= dot n (block f a - block f b)%V (a - b)%V.
Proof.
  intro lip. specialize (lip a b). rewrite (dot_equal n _ _ _ (block_minus f a b)), dot_plus.
  pose proof (cauchy n (-1 * (f a - f b))%V (a - b)%V) as back.
  rewrite dot_scale, norm_scale, Rabs_left in back by lra. rewrite <- !norm_square in *.
  pose proof (norm_nonneg n (a - b)%V). nra.
Qed.

(** [prop-rn-one] Part 2: the cosine of the angle is at least [sqrt (1 - L^2)], which is that of [arcsin L]. *)
Theorem rn_one_angle L f a b : 0 <= L < 1 -> lipschitz L f ->
  let d := (block f a - block f b)%V in
  0 <= dot n d (a - b)%V /\
  (1 - L^2) * (dot n d d * dot n (a - b)%V (a - b)%V) <= (dot n d (a - b)%V)^2.
Proof.
  intros inside lip d. split.
  { pose proof (rn_one_monotone L f a b lip). pose proof (dot_nonneg n (a - b)%V). unfold d. nra. }
  assert (small : dot n (f a - f b)%V (f a - f b)%V <= L^2 * dot n (a - b)%V (a - b)%V).
  { specialize (lip a b). rewrite <- !norm_square.
    pose proof (norm_nonneg n (f a - f b)%V). pose proof (norm_nonneg n (a - b)%V). nra. }
  unfold d. rewrite (dot_equal_r n _ _ _ (block_minus f a b)), !(dot_equal n _ _ _ (block_minus f a b)).
  revert small. generalize (f a - f b)%V. generalize (a - b)%V. intros v w small.
  rewrite !dot_plus, !dot_plus_r, (dot_sym n w v).
  pose proof (dot_nonneg n v) as v_pos.
  set (p := dot n v w) in *. set (q := dot n w w) in *. set (m := dot n v v) in *.
  pose proof (pow2_ge_0 (p + L^2 * m)) as square.
  assert (0 <= (1 - L^2) * m) by (apply Rmult_le_pos; nra). nra.
Qed.

(** [prop-rn-slopes] Part 2: the branch of the block is a contraction; the inequality is that of the squares. *)
Theorem rn_slopes_monotone (psi : vector -> vector) c C a b : 0 < c -> 0 < C ->
  c * dot n (a - b)%V (a - b)%V <= dot n (psi a - psi b)%V (a - b)%V ->
  dot n (psi a - psi b)%V (psi a - psi b)%V <= C^2 * dot n (a - b)%V (a - b)%V ->
  let branch x := (c / C^2 * psi x - x)%V in
  dot n (branch a - branch b)%V (branch a - branch b)%V <= (1 - c^2 / C^2) * dot n (a - b)%V (a - b)%V.
Proof.
  intros c_pos order strong bounded branch. set (p := c / C^2).
  assert (0 < C^2) by nra. assert (p_pos : 0 < p) by (apply Rdiv_lt_0_compat; lra).
  assert (pC : p * C^2 = c) by (unfold p; field; lra).
  rewrite (dot_equal n _ (p * (psi a - psi b) - (a - b))%V), (dot_equal_r n _ (p * (psi a - psi b) - (a - b))%V)
    by (intros i _; unfold branch, minus, scale; fold p; ring).
  generalize dependent (psi a - psi b)%V. generalize (a - b)%V. intros v w strong bounded.
  rewrite dot_minus, !dot_minus_r, !dot_scale, !dot_scale_r, (dot_sym n v w).
  replace (c^2 / C^2) with (p * c) by (unfold p; field; lra).
  assert (p * (p * dot n w w) <= p * (c * dot n v v)).
  { apply Rmult_le_compat_l; [lra|]. rewrite <- pC, Rmult_assoc. apply Rmult_le_compat_l; lra. }
  apply (Rmult_le_compat_l p) in strong; lra.
Qed.

(** [lem-rn-woodbury] The inverse for [d = 1], without the determinants. *)
Theorem rn_woodbury_rank_one u v x : 1 + dot n v u <> 0 ->
  let inverse y := (y - dot n v y / (1 + dot n v u) * u)%V in
  let M y := (y + dot n v y * u)%V in
  equal n (M (inverse x)) x /\ equal n (inverse (M x)) x.
Proof.
  intros regular inverse M. split; intros i _; unfold inverse, M.
  - rewrite dot_minus_r, dot_scale_r. unfold plus, minus, scale. field. auto.
  - rewrite dot_plus_r, dot_scale_r. unfold plus, minus, scale. field. auto.
Qed.

(** [prop-rn-stop] Part 1: the computed residual after a step with errors. *)
Theorem rn_stop_step L f x x' z rt rt' g : 0 <= L -> lipschitz L f ->
  let r u := (block f u - z)%V in
  norm n (rt - r x)%V <= g -> norm n (rt' - r x')%V <= g -> norm n (x' - (x - rt))%V <= g ->
  norm n rt' <= L * norm n rt + 3 * (1 + L) * g.
Proof.
  intros L_pos lip r one two three. specialize (lip x' x).
  pose proof (norm_nonneg n (rt - r x)%V).
  assert (step : norm n (x' - x)%V <= g + norm n rt).
  { rewrite (norm_equal n _ ((x' - (x - rt)) + (-1 * rt))%V) by (intros i _; unfold plus, minus, scale; ring).
    eapply Rle_trans; [apply norm_plus|]. rewrite norm_scale, Rabs_left; lra. }
  rewrite (norm_equal n rt' ((rt' - r x') + (((x' - (x - rt)) + (-1 * (rt - r x))) + (f x' - f x)))%V)
    by (intros i _; unfold r, block, plus, minus, scale; ring).
  pose proof (norm_plus n (rt' - r x')%V (((x' - (x - rt)) + (-1 * (rt - r x))) + (f x' - f x))%V).
  pose proof (norm_plus n ((x' - (x - rt)) + (-1 * (rt - r x)))%V (f x' - f x)%V).
  pose proof (norm_plus n (x' - (x - rt))%V (-1 * (rt - r x))%V) as last.
  rewrite norm_scale, Rabs_left in last by lra. nra.
Qed.
End Block.

(** [prop-rn-stop] Part 2, from part 1: where a step with errors gains nothing, the residual is at the floor of
    rounding. *)
Theorem rn_stop_floor L g before after : 0 <= L < 1 ->
  after <= L * before + 3 * (1 + L) * g -> before <= after ->
  before <= 3 * (1 + L) / (1 - L) * g /\ after <= 3 * (1 + L) / (1 - L) * g.
Proof.
  intros inside step stuck.
  assert (one : before <= 3 * (1 + L) / (1 - L) * g).
  { apply Rmult_le_reg_r with (1 - L); [lra|].
    replace (3 * (1 + L) / (1 - L) * g * (1 - L)) with (3 * (1 + L) * g) by (field; lra). nra. }
  split; auto.
  replace (3 * (1 + L) / (1 - L) * g) with (L * (3 * (1 + L) / (1 - L) * g) + 3 * (1 + L) * g) by (field; lra).
  nra.
Qed.

(** ** The power series of the log-determinant *)

Definition series m x := sum m (fun i => (-1)^i * x^(S i) / INR (S i)).

Lemma geometric m y : (1 + y) * sum m (fun i => (-1)^i * y^i) = 1 - (- y)^m.
Proof.
  induction m as [|m IH]; simpl; [ring|]. rewrite Rmult_plus_distr_l, IH.
  replace (- y) with (-1 * y) by ring. rewrite !Rpow_mult_distr. ring.
Qed.

Lemma series_derive m c t :
  is_derive (fun u => series m (c * u)) t (c * sum m (fun i => (-1)^i * (c * t)^i)).
Proof.
  rewrite <- sum_scale.
  apply (sum_derive m (fun i u => (-1)^i * (c * u)^(S i) / INR (S i)) (fun i u => c * ((-1)^i * (c * u)^i))).
  intro i. pose proof (lt_0_INR (S i) (Nat.lt_0_succ i)).
  auto_derive; [trivial|]. change (match i with O => 1 | S _ => INR i + 1 end) with (INR (S i)).
  simpl pred. field. lra.
Qed.

Lemma rest_derive m c t : 0 < 1 + c * t ->
  is_derive (fun u => ln (1 + c * u) - series m (c * u)) t (c * (- (c * t))^m / (1 + c * t)).
Proof.
  intro pos. replace (c * (- (c * t))^m / (1 + c * t))
    with (c / (1 + c * t) - c * sum m (fun i => (-1)^i * (c * t)^i)).
  - apply (is_derive_minus (fun u => ln (1 + c * u))); [|apply series_derive]. auto_derive; [lra|]. field. lra.
  - apply Rmult_eq_reg_r with (1 + c * t); [|lra]. field_simplify; [|lra|lra].
    pose proof (geometric m (c * t)) as g.
    set (s := sum m _) in *. nra.
Qed.

Lemma from_zero (g dg : R -> R) x : 0 <= x -> (forall t, 0 <= t <= x -> is_derive g t (dg t)) ->
  (forall t, 0 <= t <= x -> 0 <= dg t) -> g 0 <= g x.
Proof.
  intros x_pos derive rises.
  destruct (MVT_gen g 0 x dg) as [c [inside gap]]; rewrite ?Rmin_left, ?Rmax_right in * by lra.
  - intros t t_inside. apply derive. lra.
  - intros t t_inside. apply continuity_pt_filterlim, (ex_derive_continuous g). eexists. apply derive. lra.
  - specialize (rises c inside). nra.
Qed.

Lemma rest_small m L c x : 0 <= L < 1 -> c = 1 \/ c = -1 -> 0 <= x <= L ->
  Rabs (ln (1 + c * x) - series m (c * x)) <= x^(S m) / (INR (S m) * (1 - L)).
Proof.
  intros inside sign x_inside. pose proof (lt_0_INR (S m) (Nat.lt_0_succ m)) as m_pos.
  assert (start : ln (1 + c * 0) - series m (c * 0) = 0).
  { replace (1 + c * 0) with 1 by ring. rewrite ln_1. unfold series.
    rewrite (sum_ext m _ (fun i => 0 * 0)); [rewrite sum_scale; ring|].
    intros i _. simpl pow. field. apply not_0_INR. lia. }
  assert (bound : forall t, 0 <= t <= x -> Rabs (c * (- (c * t))^m / (1 + c * t)) <= t^m / (1 - L)).
  { intros t t_inside. assert (1 - L <= 1 + c * t) by (destruct sign as [-> | ->]; lra).
    rewrite Rabs_div by lra. rewrite Rabs_mult, <- RPow_abs, Rabs_Ropp, Rabs_mult, (Rabs_right t) by lra.
    rewrite (Rabs_right (1 + c * t)) by lra.
    replace (Rabs c) with 1 by (destruct sign as [-> | ->]; [rewrite Rabs_right|rewrite Rabs_left]; lra).
    rewrite !Rmult_1_l. apply Rmult_le_compat_l; [apply pow_le; lra|]. apply Rinv_le_contravar; lra. }
  assert (power : forall t, is_derive (fun u => u^(S m) / (INR (S m) * (1 - L))) t (t^m / (1 - L))).
  { intro t. auto_derive; [trivial|].
    change (match m with O => 1 | S _ => INR m + 1 end) with (INR (S m)). simpl pred. field. lra. }
  assert (zero : 0^(S m) / (INR (S m) * (1 - L)) = 0) by (simpl pow; field; lra).
  apply Rabs_le. split.
  - assert (0 <= x^(S m) / (INR (S m) * (1 - L)) + (ln (1 + c * x) - series m (c * x))).
    { pose proof (from_zero
        (fun u => u^(S m) / (INR (S m) * (1 - L)) + (ln (1 + c * u) - series m (c * u)))
        (fun t => t^m / (1 - L) + c * (- (c * t))^m / (1 + c * t)) x) as rest.
      cbv beta in rest. rewrite start, zero in rest.
      eapply Rle_trans; [|apply rest]; [lra|lra| |].
      - intros t t_inside. apply (is_derive_plus (fun u => u^(S m) / (INR (S m) * (1 - L)))); [apply power|].
        apply rest_derive. destruct sign as [-> | ->]; lra.
      - intros t t_inside. specialize (bound t t_inside). apply Rabs_le_between in bound. lra. }
    lra.
  - assert (0 <= x^(S m) / (INR (S m) * (1 - L)) - (ln (1 + c * x) - series m (c * x))).
    { pose proof (from_zero
        (fun u => u^(S m) / (INR (S m) * (1 - L)) - (ln (1 + c * u) - series m (c * u)))
        (fun t => t^m / (1 - L) - c * (- (c * t))^m / (1 + c * t)) x) as rest.
      cbv beta in rest. rewrite start, zero in rest.
      eapply Rle_trans; [|apply rest]; [lra|lra| |].
      - intros t t_inside. apply (is_derive_minus (fun u => u^(S m) / (INR (S m) * (1 - L)))); [apply power|].
        apply rest_derive. destruct sign as [-> | ->]; lra.
      - intros t t_inside. specialize (bound t t_inside). apply Rabs_le_between in bound. lra. }
    lra.
Qed.

(** [prop-rn-series] Part 2 on the line: what the first [m] terms of the series miss. *)
Theorem rn_series_remainder m L x : 0 <= L < 1 -> Rabs x <= L ->
  Rabs (ln (1 + x) - series m x) <= L^(S m) / (INR (S m) * (1 - L)).
Proof.
  intros inside small. pose proof (lt_0_INR (S m) (Nat.lt_0_succ m)) as m_pos. pose proof (Rabs_pos x).
  apply Rle_trans with (Rabs x^(S m) / (INR (S m) * (1 - L))).
  - destruct (Rle_lt_dec 0 x) as [right|left].
    + pose proof (rest_small m L 1 x inside (or_introl eq_refl)) as rest. rewrite (Rabs_right x) by lra.
      rewrite Rmult_1_l in rest. apply rest. pose proof (Rle_abs x). lra.
    + pose proof (rest_small m L (-1) (- x) inside (or_intror eq_refl)) as rest.
      rewrite (Rabs_left x) in * by lra. replace (-1 * - x) with x in rest by ring. apply rest. lra.
  - apply Rmult_le_compat_r; [|apply pow_incr; lra]. left. apply Rinv_0_lt_compat. apply Rmult_lt_0_compat; lra.
Qed.

(** ** Turning *)

(** [thm-rn-turn] Part 3, the direction 'if', for one of the [K] equal turns: the branch of a rotation by [w], which is
    the rotation minus the identity, has the Lipschitz constant [2 sin (w / 2)]. *)
Theorem rn_turn_branch w x y :
  (cos w * x - sin w * y - x)^2 + (sin w * x + cos w * y - y)^2 = (2 * sin (w / 2))^2 * (x^2 + y^2).
Proof.
  replace w with (2 * (w / 2)) at 1 2 3 4 by field.
  pose proof (sin2_cos2 (w / 2)) as one. unfold Rsqr in one.
  rewrite sin_2a, cos_2a_sin. set (s := sin (w / 2)) in *. set (c := cos (w / 2)) in *.
  replace ((1 - 2 * s * s) * x - 2 * s * c * y - x) with (2 * s * (- s * x - c * y)) by ring.
  replace (2 * s * c * x + (1 - 2 * s * s) * y - y) with (2 * s * (c * x - s * y)) by ring.
  transitivity ((2 * s)^2 * ((s * s + c * c) * (x^2 + y^2))); [ring|rewrite one; ring].
Qed.
