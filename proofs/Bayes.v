(** Posteriors: completing the square, the mean squared error, Tweedie's formula, monotonicity. *)

From Coq Require Import List.
From Coquelicot Require Import Coquelicot.
From Book Require Export Vectors.
Open Scope R_scope.

(** ** Completing the square *)

Section Squares.
Variable n : nat.
Implicit Types a b x q m mu z : vector.

(** [prop-pe-mixture] Minus twice the exponent of one component, up to a term without [x]: the square around [m], which
    [P] sends to [q]. *)
Theorem pe_mixture_square P q m x : symmetric P -> equal n (apply n P m) q ->
  dot n x (apply n P x) - 2 * dot n q x =
  dot n (x - m)%V (apply n P (x - m)%V) - dot n m (apply n P m).
Proof.
  intros sym solves. rewrite (dot_equal_r n _ _ (x - m)%V (apply_minus n P x m)).
  rewrite !dot_minus, !dot_minus_r, (apply_sym n P m x sym).
  rewrite (dot_equal_r n _ _ x solves), (dot_sym n q x). ring.
Qed.

(** [prop-inv-hellinger] The two exponents of the affinity: the middle of the data, and a factor without [A x]. *)
Theorem inv_hellinger_parallelogram y y' a :
  let middle := (/ 2 * (y + y'))%V in
  dot n (y - a)%V (y - a)%V + dot n (y' - a)%V (y' - a)%V =
  2 * dot n (middle - a)%V (middle - a)%V + / 2 * dot n (y - y')%V (y - y')%V.
Proof.
  unfold dot. simpl. rewrite <- !sum_scale, <- !sum_plus. apply sum_ext. intros i _.
  unfold minus, plus, scale. field.
Qed.
End Squares.

(** [prop-inv-posterior] Given [y], the exponent of the likelihood depends on [y] through [z = A* y] only, up to a term
    without [x]. *)
Theorem inv_posterior_data m n (A : matrix) x y d : d <> 0 ->
  let Ax := apply n A x in
  let z := (fun k => sum m (fun i => A i k * y i)) : vector in
  - dot m (y - Ax)%V (y - Ax)%V / (2 * d^2) =
  (dot n z x - / 2 * dot m Ax Ax) / d^2 - dot m y y / (2 * d^2).
Proof.
  intros nz Ax z.
  assert (adjoint : dot m y Ax = dot n z x).
  { unfold dot, Ax, apply, z, dot.
    transitivity (sum m (fun i => sum n (fun k => A i k * y i * x k))).
    - apply sum_ext. intros. rewrite <- sum_scale. apply sum_ext. intros. ring.
    - rewrite sum_swap. apply sum_ext. intros k _. rewrite Rmult_comm, <- sum_scale. apply sum_ext. intros. ring. }
  rewrite dot_minus, !dot_minus_r, (dot_sym m Ax y), adjoint. field. auto.
Qed.

(** [prop-inv-wiener] Part (c) on the line: the exponents of prior and likelihood add up to that of a Gaussian with
    mean [g z] and variance [d^2 g], and a term without [x]. *)
Theorem inv_wiener_posterior h d s x z : 0 <= h -> 0 < d -> 0 < s ->
  let g := / (h + d^2 / s^2) in
  (z * x - / 2 * h * x^2) / d^2 - x^2 / (2 * s^2) =
  - (x - g * z)^2 / (2 * (d^2 * g)) + g * z^2 / (2 * d^2).
Proof.
  intros h_pos d_pos s_pos g. unfold g. assert (0 < d^2) by nra. assert (0 < s^2) by nra.
  assert (0 <= h * s^2) by nra. field. lra.
Qed.

(** ** Means of squares *)

(** [prop-pe-mse] For numbers [x] on finitely many points, jointly with [z]: the mean squared error of [f] is its mean
    squared distance to the posterior mean, plus the mean posterior variance. *)
Theorem pe_mse_pythagoras k l p x f :
  (forall j, (j < l)%nat -> 0 < sum k (fun i => p i j)) ->
  let mean j := sum k (fun i => p i j * x i) / sum k (fun i => p i j) in
  sum l (fun j => sum k (fun i => p i j * (f j - x i)^2)) =
  sum l (fun j => sum k (fun i => p i j) * (f j - mean j)^2) +
  sum l (fun j => sum k (fun i => p i j * (mean j - x i)^2)).
Proof.
  intros seen mean. rewrite <- sum_plus. apply sum_ext. intros j small.
  set (m := mean j).
  assert (first : sum k (fun i => p i j * x i) = m * sum k (fun i => p i j))
    by (unfold m, mean; field; apply Rgt_not_eq; now apply seen).
  transitivity (sum k (fun i => (f j - m)^2 * p i j +
    ((2 * (f j - m)) * (m * p i j + - 1 * (p i j * x i)) + 1 * (p i j * (m - x i)^2)))).
  { apply sum_ext. intros. ring. }
  rewrite !sum_plus, !sum_scale, sum_linear, first. ring.
Qed.

Section Means.
Variables (W : Type) (E : expectation W).

Lemma mean_scale u f : E (fun w => u * f w) = u * E f.
Proof.
  rewrite (mean_ext _ E _ (fun w => u * f w + 0 * f w)) by (intro; ring).
  rewrite mean_linear. ring.
Qed.

Lemma mean_plus f g : E (fun w => f w + g w) = E f + E g.
Proof.
  rewrite (mean_ext _ E _ (fun w => 1 * f w + 1 * g w)) by (intro; ring).
  rewrite mean_linear. ring.
Qed.

Lemma mean_le f g : (forall w, f w <= g w) -> E f <= E g.
Proof.
  intro below. enough (0 <= E (fun w => g w + - 1 * f w)) by (rewrite mean_plus, mean_scale in *; lra).
  apply mean_nonneg. intro w. specialize (below w). lra.
Qed.

(** [prop-eb-calibration] Part 2, Markov's inequality: [above] is one where [q] exceeds [t], and zero elsewhere. *)
Theorem eb_calibration_markov q above t : 0 < t -> (forall w, 0 <= q w) ->
  (forall w, above w = 0 \/ above w = 1 /\ t < q w) -> E above <= E q / t.
Proof.
  intros t_pos q_pos tells. apply Rmult_le_reg_r with t; [lra|].
  replace (E q / t * t) with (E q) by (field; lra). rewrite Rmult_comm, <- mean_scale.
  apply mean_le. intro w. specialize (q_pos w). destruct (tells w) as [->|[-> more]]; lra.
Qed.

(** [prop-ap-minimizer] The loss of the approximation, from noise that is uncorrelated with both maps. [eta] is the
    noise in [z], [A* eta] of the book; the last mean is [d^2] times the trace of [H] there. *)
Theorem ap_minimizer_split n (phi hx eta : W -> vector) :
  E (fun w => dot n (phi w) (eta w)) = 0 -> E (fun w => dot n (hx w) (eta w)) = 0 ->
  let z w := (hx w + eta w)%V in
  E (fun w => / 2 * dot n (phi w - z w)%V (phi w - z w)%V) =
  E (fun w => / 2 * dot n (phi w - hx w)%V (phi w - hx w)%V) + / 2 * E (fun w => dot n (eta w) (eta w)).
Proof.
  intros noise_phi noise_h z. unfold z.
  transitivity (E (fun w => / 2 * dot n (phi w - hx w)%V (phi w - hx w)%V +
    (/ 2 * dot n (eta w) (eta w) + (- 1 * dot n (phi w) (eta w) + 1 * dot n (hx w) (eta w))))).
  - apply mean_ext. intro w. rewrite !dot_minus, !dot_minus_r, !dot_plus, !dot_plus_r.
    rewrite (dot_sym n (eta w) (phi w)), (dot_sym n (eta w) (hx w)), (dot_sym n (hx w) (phi w)). field.
  - rewrite !mean_plus, !mean_scale, noise_phi, noise_h. field.
Qed.

(** [thm-dv-divergence] Part 1. Supposed are: integration by parts for the fields [phi] and [H x] ([div_phi] and
    [div_h] are their divergences); that [eta], the noise [A* eta] of the book, is uncorrelated with both; and that its
    mean square is [d^2] times the trace of [H], which is [div_h]. [t] is the square of the strength. *)
Theorem dv_divergence_identity n (phi hx eta s : W -> vector) div_phi div_h d t :
  E div_phi = - E (fun w => dot n (phi w) (s w)) ->
  E div_h = - E (fun w => dot n (hx w) (s w)) ->
  E (fun w => dot n (phi w) (eta w)) = 0 -> E (fun w => dot n (hx w) (eta w)) = 0 ->
  E (fun w => dot n (eta w) (eta w)) = d^2 * E div_h ->
  let z w := (hx w + eta w)%V in
  let best w := (hx w - t * s w)%V in
  E (fun w => / 2 * dot n (phi w - z w)%V (phi w - z w)%V) - t * E div_phi =
  E (fun w => / 2 * dot n (phi w - best w)%V (phi w - best w)%V) +
  ((/ 2 * d^2 - t) * E div_h - / 2 * t^2 * E (fun w => dot n (s w) (s w))).
Proof.
  intros parts_phi parts_h noise_phi noise_h noise z best. unfold z, best.
  rewrite (ap_minimizer_split n phi hx eta noise_phi noise_h), noise.
  transitivity (E (fun w => / 2 * dot n (phi w - hx w)%V (phi w - hx w)%V + / 2 * t^2 * dot n (s w) (s w) +
    (t * dot n (phi w) (s w) + - t * dot n (hx w) (s w))) +
    ((/ 2 * d^2 - t) * E div_h - / 2 * t^2 * E (fun w => dot n (s w) (s w)))).
  { rewrite !mean_plus, !mean_scale, parts_phi, parts_h. field. }
  f_equal. apply mean_ext. intro w. rewrite !dot_minus, !dot_minus_r, !dot_scale, !dot_scale_r.
  rewrite (dot_sym n (s w) (phi w)), (dot_sym n (s w) (hx w)), (dot_sym n (hx w) (phi w)). field.
Qed.
End Means.

(** [prop-rn-hutchinson] Random signs, for a matrix with the rows [a, b] and [c, d]: the mean and the variance. *)
Theorem rn_hutchinson_signs a b c d :
  let form u v := u * (a * u + b * v) + v * (c * u + d * v) in
  let average (g : R -> R -> R) := (g 1 1 + g 1 (-1) + g (-1) 1 + g (-1) (-1)) / 4 in
  average form = a + d /\ average (fun u v => (form u v - (a + d))^2) = 2 * (2 * ((b + c) / 2)^2).
Proof. split; field. Qed.

(** [prop-eb-calibration] Part 5 on the line, without the case of equality: [v] is the posterior variance, [c] the
    claimed one, [e] the distance to the posterior mean. *)
Theorem eb_calibration_best v c e : 0 < v -> 0 < c ->
  1 + ln v <= (v + e^2) / c + ln c.
Proof.
  intros v_pos c_pos.
  assert (low : 1 + (v / c - 1) >= 1 + ln (v / c)).
  { assert (0 < v / c) by (apply Rdiv_lt_0_compat; lra).
    assert (1 + ln (v / c) <= exp (ln (v / c))) by apply exp_ineq1_le. rewrite exp_ln in *; lra. }
  rewrite ln_div in low by lra. assert (0 <= e^2 / c).
  { apply Rmult_le_pos; [apply pow2_ge_0|]. left. now apply Rinv_0_lt_compat. }
  replace ((v + e^2) / c) with (v / c + e^2 / c) by (field; lra). lra.
Qed.

(** ** Tweedie's formula for priors on finitely many points, on the line *)

Lemma ln_derive (f : R -> R) y l c :
  0 < f y -> is_derive f y l -> is_derive (fun u => ln (f u) - c) y (l / f y).
Proof.
  intros pos derive. assert (ex_derive f y) by (eexists; exact derive).
  auto_derive; [auto|]. rewrite (is_derive_unique _ _ _ derive : Derive (fun u => f u) y = l). field. lra.
Qed.

Section Tweedie.
Variables (k : nat) (p bx : nat -> R) (d : R).
Hypotheses (some : (0 < k)%nat) (p_pos : forall i, 0 < p i) (d_pos : 0 < d).

Definition weight i y := p i * exp (- (y - bx i)^2 / (2 * d^2)).
Definition density y := sum k (fun i => weight i y) / sqrt (2 * PI * d^2).
Definition posterior (f : nat -> R) y := sum k (fun i => weight i y * f i) / sum k (fun i => weight i y).

Lemma weight_pos i y : 0 < weight i y.
Proof. apply Rmult_lt_0_compat; [apply p_pos|apply exp_pos]. Qed.

Lemma evidence_pos y : 0 < sum k (fun i => weight i y).
Proof.
  apply Rlt_le_trans with (weight 0%nat y); [apply weight_pos|].
  apply (sum_pos k (fun i => weight i y)); auto. intros. left. apply weight_pos.
Qed.

Lemma weight_derive i y : is_derive (weight i) y (weight i y * ((bx i - y) / d^2)).
Proof.
  unfold weight. auto_derive; [trivial|].
  replace (- ((y + - bx i) * ((y + - bx i) * 1)) * / (2 * (d * (d * 1))))
    with (- (y - bx i)^2 / (2 * d^2)) by (field; lra). field. lra.
Qed.

Lemma sum_derive m (f g : nat -> R -> R) y : (forall i, is_derive (f i) y (g i y)) ->
  is_derive (fun u => sum m (fun i => f i u)) y (sum m (fun i => g i y)).
Proof.
  intro each. induction m as [|m IH]; simpl.
  { apply (is_derive_const (0 : R) y). }
  apply (is_derive_plus (fun u => sum m (fun i => f i u)) (f m)); auto.
Qed.

Lemma moment_derive (f : nat -> R) y : is_derive (fun u => sum k (fun i => weight i u * f i)) y
  ((sum k (fun i => weight i y * (bx i * f i)) - y * sum k (fun i => weight i y * f i)) / d^2).
Proof.
  replace ((_ - _) / _) with (sum k (fun i => weight i y * ((bx i - y) / d^2) * f i)).
  - apply (sum_derive k (fun i u => weight i u * f i) (fun i u => weight i u * ((bx i - u) / d^2) * f i)).
    intro i. apply (is_derive_ext (fun u => f i * weight i u)); [intro; apply Rmult_comm|].
    replace (weight i y * ((bx i - y) / d^2) * f i) with (f i * (weight i y * ((bx i - y) / d^2))) by ring.
    apply is_derive_scal, weight_derive.
  - rewrite <- sum_scale, <- sum_minus. unfold Rdiv. rewrite Rmult_comm, <- sum_scale.
    apply sum_ext. intros. ring.
Qed.

Lemma evidence_derive y : is_derive (fun u => sum k (fun i => weight i u)) y
  ((sum k (fun i => weight i y * bx i) - y * sum k (fun i => weight i y)) / d^2).
Proof.
  apply (is_derive_ext (fun u => sum k (fun i => weight i u * 1))).
  { intro u. apply sum_ext. intros. ring. }
  replace (sum k (fun i => weight i y * bx i)) with (sum k (fun i => weight i y * (bx i * 1)))
    by (apply sum_ext; intros; ring).
  replace (sum k (fun i => weight i y)) with (sum k (fun i => weight i y * 1))
    by (apply sum_ext; intros; ring). apply moment_derive.
Qed.

(** [lem-tw-y] The posterior mean of the signal is the datum plus [d^2] times the score of the data. *)
Theorem tw_y_score y : is_derive (fun u => ln (density u)) y ((posterior bx y - y) / d^2).
Proof.
  assert (root : 0 < sqrt (2 * PI * d^2)).
  { apply sqrt_lt_R0. pose proof PI_RGT_0. apply Rmult_lt_0_compat; [lra|nra]. }
  apply (is_derive_ext (fun u => ln (sum k (fun i => weight i u)) - ln (sqrt (2 * PI * d^2)))).
  { intro u. unfold density. rewrite ln_div; auto using evidence_pos. }
  pose proof (evidence_pos y) as pos.
  replace ((posterior bx y - y) / d^2) with
    ((sum k (fun i => weight i y * bx i) - y * sum k (fun i => weight i y)) / d^2 / sum k (fun i => weight i y))
    by (unfold posterior; field; lra).
  apply ln_derive; auto. apply evidence_derive.
Qed.

(** [prop-tw-covariance] The derivative of the posterior mean is the posterior variance, divided by [d^2]. *)
Theorem tw_covariance_slope y : is_derive (posterior bx) y
  ((posterior (fun i => bx i * bx i) y - posterior bx y * posterior bx y) / d^2).
Proof.
  pose proof (evidence_pos y) as pos.
  replace (posterior (fun i => bx i * bx i) y - posterior bx y * posterior bx y) with
    (d^2 * (((sum k (fun i => weight i y * (bx i * bx i)) - y * sum k (fun i => weight i y * bx i)) / d^2 *
      sum k (fun i => weight i y) - sum k (fun i => weight i y * bx i) *
      ((sum k (fun i => weight i y * bx i) - y * sum k (fun i => weight i y)) / d^2)) /
      (sum k (fun i => weight i y))^2)) by (unfold posterior; field; lra).
  match goal with |- is_derive _ _ (_ * ?slope / _) => replace (d^2 * slope / d^2) with slope by (field; lra) end.
  apply (is_derive_div (fun u => sum k (fun i => weight i u * bx i)) (fun u => sum k (fun i => weight i u)));
    auto using moment_derive, evidence_derive. lra.
Qed.

(** [prop-tw-covariance] This variance is not negative. *)
Theorem tw_covariance_nonneg y :
  posterior bx y * posterior bx y <= posterior (fun i => bx i * bx i) y.
Proof.
  pose proof (evidence_pos y) as pos. unfold posterior. set (ev := sum k (fun i => weight i y)) in *.
  set (m := sum k (fun i => weight i y * bx i) / ev).
  assert (square : 0 <= sum k (fun i => weight i y * (bx i - m)^2)).
  { apply sum_nonneg. intros i _. apply Rmult_le_pos; [left; apply weight_pos|apply pow2_ge_0]. }
  replace (sum k (fun i => weight i y * (bx i - m)^2))
    with (sum k (fun i => weight i y * (bx i * bx i)) - m * m * ev) in square.
  - apply Rmult_le_reg_r with ev; [lra|].
    replace (sum k (fun i => weight i y * (bx i * bx i)) / ev * ev)
      with (sum k (fun i => weight i y * (bx i * bx i))) by (field; lra). lra.
  - transitivity (sum k (fun i => 1 * (weight i y * (bx i * bx i)) +
      m * (- 2 * (weight i y * bx i) + m * weight i y))).
    + rewrite sum_linear, sum_linear. fold ev.
      replace (sum k (fun i => weight i y * bx i)) with (m * ev) by (unfold m; field; lra). ring.
    + apply sum_ext. intros. ring.
Qed.
End Tweedie.

(** [prop-ph-slopes] Parts 2 and 3 on the line, for [x0] on finitely many points: the best map in terms of the denoiser,
    and the bound of its slope. *)
Theorem ph_slopes_denoiser k p x0 tau h t : (0 < k)%nat -> (forall i, 0 < p i) -> 0 < tau -> 0 <= t ->
  let best x := h * x + t / tau^2 * (x - posterior k p x0 tau x0 x) in
  forall x, best x = h * x - t * Derive (fun u => ln (density k p x0 tau u)) x /\
    ex_derive best x /\ Derive best x <= h + t / tau^2.
Proof.
  intros some p_pos tau_pos t_pos best x.
  assert (0 < tau^2) by nra. split.
  - pose proof (is_derive_unique _ _ _ (tw_y_score k p x0 tau some p_pos tau_pos x)) as score.
    change (Derive (fun u : R => ln (density k p x0 tau u)) x = (posterior k p x0 tau x0 x - x) / tau^2) in score.
    rewrite score. unfold best. field. lra.
  - pose proof (tw_covariance_slope k p x0 tau some p_pos tau_pos x) as slope.
    pose proof (tw_covariance_nonneg k p x0 tau some p_pos x) as nonneg.
    set (v := posterior k p x0 tau (fun i => x0 i * x0 i) x - _) in slope.
    assert (0 <= v / tau^2) by (apply Rdiv_le_0_compat; unfold v; lra).
    assert (is_derive best x (h + t / tau^2 * (1 - v / tau^2))) as d.
    { unfold best. apply (is_derive_plus (fun u => h * u) (fun u => t / tau^2 * (u - posterior k p x0 tau x0 u))).
      - auto_derive; [trivial|ring].
      - apply is_derive_scal, (is_derive_minus (fun u : R => u) (posterior k p x0 tau x0)); [|exact slope].
        exact (is_derive_id x). }
    split; [eexists; exact d|]. rewrite (is_derive_unique _ _ _ d).
    assert (0 <= t / tau^2) by (apply Rdiv_le_0_compat; lra). nra.
Qed.

(** [prop-tw-general] For a Gaussian prior on the line, of variance [s^2], and noise of variance [g]: the exponents
    add up to a square around the posterior mean [m] and the exponent of the evidence, whose derivative is the
    formula's score. *)
Theorem tw_general_gaussian b s g x y : 0 < s -> 0 < g ->
  let v := b^2 * s^2 + g in let m := b * s^2 * y / v in
  - (y - b * x)^2 / (2 * g) - x^2 / (2 * s^2) = - (x - m)^2 / (2 * (s^2 * g / v)) - y^2 / (2 * v) /\
  is_derive (fun u => - u^2 / (2 * v)) y ((b * m - y) / g).
Proof.
  intros s_pos g_pos v m. assert (0 < s^2) by nra. assert (0 < v) by (unfold v; nra). split.
  - unfold m. unfold v in *. field. repeat split; lra.
  - auto_derive; [trivial|]. unfold m.
    replace (b * (b * s^2 * y / v)) with ((v - g) * y / v) by (unfold v; field; unfold v in *; lra). field. lra.
Qed.

(** [prop-tw-euler] The second line for a Gaussian prior on the line: each MAP estimate is an implicit step. *)
Theorem tw_euler_gaussian h d s z x : 0 < h -> 0 < d -> 0 < s ->
  let objective u := / 2 * h * u^2 - z * u + d^2 * u^2 / (2 * s^2) in
  (forall u, objective x <= objective u) -> x = z / h + d^2 / h * (- x / s^2).
Proof.
  intros h_pos d_pos s_pos objective low.
  assert (0 < s^2) by nra. assert (0 < d^2) by nra.
  assert (0 < d^2 / s^2) by (apply Rdiv_lt_0_compat; lra).
  set (p := h + d^2 / s^2) in *. assert (0 < p) by (unfold p; lra).
  assert (square : forall u, objective u = / 2 * p * (u - z / p)^2 - z^2 / (2 * p)).
  { intro u. transitivity (/ 2 * p * u^2 - z * u); [unfold objective, p|]; field; lra. }
  specialize (low (z / p)). rewrite !square in low.
  set (w := x - z / p) in *. assert (gone : w = 0).
  { replace (z / p - z / p) with 0 in low by ring. assert (0 <= w^2) by nra. assert (p * w^2 <= 0) by lra.
    assert (w^2 <= 0) by nra. nra. }
  assert (z = p * x) as ->; [|unfold p; field; lra].
  transitivity (p * (z / p)); [field; lra|]. replace (z / p) with (x - w) by (unfold w; ring). rewrite gone. ring.
Qed.

(** ** Monotone maps *)

Section Monotone.
Variable n : nat.
Implicit Types a b x z : vector.

(** [prop-pe-conjugate] Part 2 for the MAP estimates: minimizers of [j - z] and [j - z'] are ordered like the data. *)
Theorem pe_conjugate_monotone (j : vector -> R) x x' z z' :
  (forall a, j x - dot n z x <= j a - dot n z a) ->
  (forall a, j x' - dot n z' x' <= j a - dot n z' a) -> 0 <= dot n (z - z')%V (x - x')%V.
Proof.
  intros low low'. specialize (low x'). specialize (low' x).
  rewrite dot_minus, !dot_minus_r. lra.
Qed.

(** [prop-pe-conjugate] Part 3 for the posterior mean, from its strict monotonicity in part 2. *)
Theorem pe_conjugate_injective (f : vector -> vector) a b :
  (~ equal n a b -> 0 < dot n (f a - f b)%V (a - b)%V) -> equal n (f a) (f b) -> equal n a b.
Proof.
  intros monotone same. destruct (equal_or_not n a b) as [|differ]; auto. specialize (monotone differ).
  rewrite dot_minus, (dot_equal n _ _ (a - b)%V same) in monotone. lra.
Qed.

(** [thm-pe-jump] The jump of the last inequality: between the data [z + e d] and [z - e d], however small [e] is, MAP
    estimates jump by [x - x'] at least, and values [v], [v'] that are close to each other cannot follow. *)
Theorem pe_jump_half (j : vector -> R) x x' p q z e v v' : 0 < e ->
  let d := (x - x')%V in
  (forall a, j x - dot n z x <= j a - dot n z a) -> (forall a, j x' - dot n z x' <= j a - dot n z a) ->
  (forall a, j p - dot n (z + e * d)%V p <= j a - dot n (z + e * d)%V a) ->
  (forall a, j q - dot n (z - e * d)%V q <= j a - dot n (z - e * d)%V a) ->
  norm n d <= norm n (v - p)%V + norm n (v - v')%V + norm n (v' - q)%V.
Proof.
  intros e_pos d low low' low_p low_q.
  pose proof (pe_conjugate_monotone j p x (z + e * d)%V z low_p low) as up.
  pose proof (pe_conjugate_monotone j x' q z (z - e * d)%V low' low_q) as down.
  rewrite (dot_equal n _ (e * d)%V) in up by (intros i _; unfold plus, minus, scale; ring).
  rewrite (dot_equal n _ (e * d)%V) in down by (intros i _; unfold plus, minus, scale; ring).
  rewrite dot_scale, dot_minus_r in up, down.
  assert (dot n d d <= dot n d (p - q)%V).
  { rewrite dot_minus_r. unfold d at 2. rewrite dot_minus_r. nra. }
  pose proof (cauchy n d (p - q)%V) as c. rewrite <- norm_square in *.
  pose proof (norm_nonneg n d). pose proof (norm_nonneg n (p - q)%V).
  assert (norm n d <= norm n (p - q)%V).
  { destruct (Rle_lt_or_eq_dec 0 (norm n d)); [lra|nra|lra]. }
  pose proof (norm_triangle n p v q). pose proof (norm_triangle n v v' q).
  rewrite (norm_swap n p v) in *. lra.
Qed.

(** [cor-dv-map] From strong monotonicity: the inverse has the Lipschitz constant [1 / c]. *)
Theorem dv_map_inverse (f : vector -> vector) c a b : 0 < c ->
  c * dot n (a - b)%V (a - b)%V <= dot n (f a - f b)%V (a - b)%V ->
  norm n (a - b)%V <= norm n (f a - f b)%V / c.
Proof.
  intros c_pos strong. rewrite <- norm_square in strong.
  pose proof (cauchy n (f a - f b)%V (a - b)%V) as below.
  pose proof (norm_nonneg n (a - b)%V). pose proof (norm_nonneg n (f a - f b)%V).
  apply Rmult_le_reg_r with c; [lra|].
  replace (norm n (f a - f b)%V / c * c) with (norm n (f a - f b)%V) by (field; lra).
  destruct (Rle_lt_or_eq_dec 0 (norm n (a - b)%V)) as [|zero]; auto; [nra|rewrite <- zero; lra].
Qed.

(** [prop-pe-map] Part 3: two solutions of the normal equation for one datum agree. *)
Theorem pe_map_unique (f : vector -> vector) c a b : 0 < c ->
  c * dot n (a - b)%V (a - b)%V <= dot n (f a - f b)%V (a - b)%V ->
  equal n (f a) (f b) -> equal n a b.
Proof.
  intros c_pos strong same. apply norm_zero.
  pose proof (dv_map_inverse f c a b c_pos strong) as bound.
  replace (norm n (f a - f b)%V) with 0 in bound; [lra|].
  symmetry. unfold norm. rewrite dot_minus, (dot_equal n _ _ _ same), Rminus_diag_eq; auto. apply sqrt_0.
Qed.

(** [prop-dv-bound] Part 1: [f x - z] is the gradient of the MAP objective, which is zero at [best]. *)
Theorem dv_bound_gradient (f : vector -> vector) c x best z : 0 < c ->
  (forall a b, c * dot n (a - b)%V (a - b)%V <= dot n (f a - f b)%V (a - b)%V) ->
  equal n (f best) z -> norm n (x - best)%V <= norm n (f x - z)%V / c.
Proof.
  intros c_pos strong solves.
  replace (norm n (f x - z)%V) with (norm n (f x - f best)%V); [now apply dv_map_inverse|].
  apply norm_equal. intros i small. unfold minus. now rewrite solves.
Qed.

(** [prop-ch-levels] Part 3: the curvature bound of a mixture of the operator and the trained map. *)
Theorem ch_levels_curvature H (f : vector -> vector) low c r a b : 0 <= r <= 1 ->
  low * dot n (a - b)%V (a - b)%V <= dot n (apply n H (a - b)%V) (a - b)%V ->
  c * dot n (a - b)%V (a - b)%V <= dot n (f a - f b)%V (a - b)%V ->
  let mixed x := ((1 - r) * apply n H x + r * f x)%V in
  ((1 - r) * low + r * c) * dot n (a - b)%V (a - b)%V <= dot n (mixed a - mixed b)%V (a - b)%V.
Proof.
  intros inside one two mixed. unfold mixed.
  rewrite (dot_equal n _ _ _ (apply_minus n H a b)) in one.
  rewrite (dot_minus n (_ + _)%V), !dot_plus, !dot_scale.
  rewrite (dot_minus n (apply n H a)) in one. rewrite (dot_minus n (f a)) in two. nra.
Qed.
End Monotone.

(** ** Mixtures with a common covariance *)

(** [prop-sg-certificate] Part 1 for two components: [B] is symmetric and positive semidefinite, the noise level times
    [g] is [B e], and [r] is the probability of the second component. The right side is the form of [H - t (log p)'']
    for two components, [t] the square of the noise level; that it is so is proved in the chapter. *)
Theorem sg_certificate_two n B e v r d : symmetric B ->
  (forall x, 0 <= dot n x (apply n B x)) -> d^2 = dot n e (apply n B e) -> 0 <= r <= 1 ->
  (1 - / 4 * d^2) * dot n v (apply n B v) <=
  dot n v (apply n B v) - r * (1 - r) * (dot n v (apply n B e))^2.
Proof.
  intros sym pos size inside.
  assert (schwarz : dot n v (apply n B e) * dot n v (apply n B e) <=
    dot n v (apply n B v) * dot n e (apply n B e)).
  { apply (cauchy_form (fun x y => dot n x (apply n B y))); auto using apply_sym.
    - intros. apply dot_minus.
    - intros. apply dot_scale. }
  rewrite <- size in schwarz. pose proof (pos v).
  pose proof (pow2_ge_0 (r - / 2)). assert (0 <= r * (1 - r) <= / 4) by nra.
  assert (0 <= dot n v (apply n B e) * dot n v (apply n B e)) by nra.
  assert (0 <= d^2) by nra. nra.
Qed.
