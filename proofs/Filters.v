(** Estimators as numbers: the four filters, clipped filters, and the orders of the half step for Gaussians. *)

From Coq Require Import List.
From Coquelicot Require Import Coquelicot.
From Book Require Export Vectors.
Open Scope R_scope.

(** ** The losses of the multiplication by a number

    [x] and [eta] are independent with mean zero and the variances [s^2] and [d^2], and [z = h x + sqrt h eta].
    Of independence only [E (x eta) = 0] is used. *)

Section Losses.
Variables h s d t : R.  (* t is the strength of the last two losses, squared *)
Hypotheses (h_pos : 0 < h) (s_pos : 0 < s) (d_pos : 0 < d) (t_pos : 0 < t).

Definition approximation (a : R) := / 2 * ((a - h)^2 * s^2 + h * d^2).
Definition reconstruction (a : R) := / 2 * ((h / a - 1)^2 * s^2 + h * d^2 / a^2).
Definition divergence (a : R) := approximation a - t * a.
Definition log_det (a : R) := approximation a - t * ln a.

Section Expectations.
Variables (W : Type) (E : expectation W) (x eta : W -> R).
Hypotheses (var_x : E (fun w => x w * x w) = s^2) (var_eta : E (fun w => eta w * eta w) = d^2).
Hypothesis uncorrelated : E (fun w => x w * eta w) = 0.
Let z w := h * x w + sqrt h * eta w.

Lemma square_mean u v :
  E (fun w => / 2 * (u * x w + v * eta w)^2) = / 2 * (u^2 * s^2 + v^2 * d^2).
Proof.
  rewrite <- var_x, <- var_eta.
  rewrite (mean_ext _ E _ (fun w => / 2 * u^2 * (x w * x w) +
    1 * (v * u * (x w * eta w) + / 2 * v^2 * (eta w * eta w)))) by (intro w; field).
  rewrite !mean_linear, uncorrelated. field.
Qed.

(** [prop-four-filter] The loss of the approximation, as a function of the slope. *)
Theorem four_filter_approximation_loss a :
  E (fun w => / 2 * (a * x w - z w)^2) = approximation a.
Proof.
  rewrite (mean_ext _ E _ (fun w => / 2 * ((a - h) * x w + (- sqrt h) * eta w)^2))
    by (intro w; unfold z; ring).
  rewrite square_mean. unfold approximation.
  replace ((- sqrt h)^2) with (sqrt h * sqrt h) by ring. rewrite sqrt_sqrt; lra.
Qed.

(** [prop-four-filter] The loss of the reconstruction, as a function of the slope. *)
Theorem four_filter_reconstruction_loss a : 0 < a ->
  E (fun w => / 2 * (z w / a - x w)^2) = reconstruction a.
Proof.
  intro a_pos.
  rewrite (mean_ext _ E _ (fun w => / 2 * ((h / a - 1) * x w + (sqrt h / a) * eta w)^2))
    by (intro w; unfold z; field; lra).
  rewrite square_mean. unfold reconstruction.
  replace ((sqrt h / a)^2) with (sqrt h * sqrt h / a^2) by (field; lra).
  rewrite sqrt_sqrt by lra. f_equal. field. lra.
Qed.
End Expectations.

(** [f] falls up to [b] and rises from there: then [b] is its only minimizer, and it can be clipped. *)
Definition turns_at (f : R -> R) (b : R) : Prop :=
  0 < b /\ forall u v, 0 < u -> u < v -> (v <= b -> f v < f u) /\ (b <= u -> f u < f v).

Lemma only_minimizer f b a : turns_at f b -> 0 < a -> a <> b -> f b < f a.
Proof.
  intros [b_pos turn] a_pos other. destruct (Rtotal_order a b) as [less|[same|more]].
  - destruct (turn a b) as [falls _]; lra.
  - contradiction.
  - destruct (turn b a) as [_ rises]; lra.
Qed.

Lemma approximation_turns : turns_at approximation h.
Proof.
  split; [lra|]. intros u v u_pos order. assert (0 < / 2 * s^2) by nra.
  assert (gap : approximation v - approximation u = / 2 * s^2 * ((v - u) * (v + u - 2 * h)))
    by (unfold approximation; field).
  split; intro side.
  - assert ((v - u) * (v + u - 2 * h) < 0) by nra. nra.
  - assert (0 < (v - u) * (v + u - 2 * h)) by nra. nra.
Qed.

Lemma divergence_turns : turns_at divergence (h + t / s^2).
Proof.
  assert (0 < s^2) by nra. assert (0 < t / s^2) by (apply Rdiv_lt_0_compat; lra).
  split; [lra|]. intros u v u_pos order. set (b := h + t / s^2) in *.
  assert (strength : t = (b - h) * s^2) by (unfold b; field; lra).
  assert (gap : divergence v - divergence u = / 2 * s^2 * ((v - u) * (v + u - 2 * b)))
    by (unfold divergence, approximation; rewrite strength; field).
  assert (0 < / 2 * s^2) by lra. split; intro side.
  - assert ((v - u) * (v + u - 2 * b) < 0) by nra. nra.
  - assert (0 < (v - u) * (v + u - 2 * b)) by nra. nra.
Qed.

Lemma reconstruction_turns : turns_at reconstruction (h + d^2 / s^2).
Proof.
  assert (0 < s^2) by nra. assert (0 < d^2) by nra.
  assert (0 < d^2 / s^2) by (apply Rdiv_lt_0_compat; lra).
  split; [lra|]. intros u v u_pos order. set (b := h + d^2 / s^2) in *.
  assert (noise : d^2 = (b - h) * s^2) by (unfold b; field; lra).
  assert (gap : reconstruction u - reconstruction v =
    / 2 * h * s^2 * ((/ u - / v) * (b * (/ u + / v) - 2)))
    by (unfold reconstruction; rewrite noise; field; lra).
  assert (0 < / 2 * h * s^2) by nra. assert (/ v < / u) by (apply Rinv_lt_contravar; nra).
  assert (u_one : u * / u = 1) by (field; lra). assert (v_one : v * / v = 1) by (field; lra).
  assert (0 < / v) by (apply Rinv_0_lt_compat; lra).
  split; intro side.
  - assert (1 <= b * / v) by nra. assert (0 < b * (/ u + / v) - 2) by nra.
    assert (0 < (/ u - / v) * (b * (/ u + / v) - 2)) by nra. nra.
  - assert (b * / u <= 1) by nra. assert (b * (/ u + / v) - 2 < 0) by nra.
    assert ((/ u - / v) * (b * (/ u + / v) - 2) < 0) by nra. nra.
Qed.

Lemma ln_below y : 0 < y -> ln y <= y - 1.
Proof.
  intro y_pos. destruct (Req_dec y 1) as [->|other]; [rewrite ln_1; lra|].
  assert (ln y < y - 1); [|lra]. apply exp_lt_inv. rewrite exp_ln by lra.
  assert (1 + (y - 1) < exp (y - 1)) by (apply exp_ineq1; lra). lra.
Qed.

Lemma ln_gap u v : 0 < u -> u < v -> (v - u) / v <= ln v - ln u <= (v - u) / u.
Proof.
  intros u_pos order.
  pose proof (ln_below (v / u)) as high. pose proof (ln_below (u / v)) as low.
  rewrite ln_div in high, low by lra.
  replace (v / u - 1) with ((v - u) / u) in high by (field; lra).
  replace (u / v - 1) with (- ((v - u) / v)) in low by (field; lra).
  assert (0 < v / u) by (apply Rdiv_lt_0_compat; lra).
  assert (0 < u / v) by (apply Rdiv_lt_0_compat; lra). split; lra.
Qed.

Definition log_det_slope := / 2 * (h + sqrt (h^2 + 4 * t / s^2)).

Lemma log_det_turns : turns_at log_det log_det_slope.
Proof.
  assert (0 < s^2) by nra. assert (0 < t / s^2) by (apply Rdiv_lt_0_compat; lra).
  unfold log_det_slope. set (r := sqrt (h^2 + 4 * t / s^2)).
  assert (square : r * r = h^2 + 4 * t / s^2).
  { apply sqrt_sqrt. replace (4 * t / s^2) with (4 * (t / s^2)) by (field; lra). nra. }
  assert (0 <= r) by apply sqrt_pos. set (b := / 2 * (h + r)).
  assert (strength : t = b * (b - h) * s^2).
  { unfold b. replace (/ 2 * (h + r) * (/ 2 * (h + r) - h)) with (/ 4 * (r * r - h^2)) by field.
    rewrite square. field. lra. }
  assert (b_more : h < b) by (assert (h < r) by nra; unfold b; lra).
  split; [lra|]. intros u v u_pos order. destruct (ln_gap u v u_pos order) as [low high].
  assert (gap : log_det v - log_det u =
    (v - u) * (s^2 * ((v + u) / 2 - h)) - t * (ln v - ln u)) by (unfold log_det, approximation; field).
  split; intro side.
  - assert (s^2 * ((v + u) / 2 - h) < t / v).
    { apply Rmult_lt_reg_r with v; [lra|]. replace (t / v * v) with t by (field; lra).
      assert (((v + u) / 2 - h) * v < b * (b - h)) by nra. nra. }
    assert (t * ((v - u) / v) <= t * (ln v - ln u)) by nra.
    replace (t * ((v - u) / v)) with ((v - u) * (t / v)) in * by (field; lra). nra.
  - assert (t / u < s^2 * ((v + u) / 2 - h)).
    { apply Rmult_lt_reg_r with u; [lra|]. replace (t / u * u) with t by (field; lra).
      assert (b * (b - h) < ((v + u) / 2 - h) * u) by nra. nra. }
    assert (t * (ln v - ln u) <= t * ((v - u) / u)) by nra.
    replace (t * ((v - u) / u)) with ((v - u) * (t / u)) in * by (field; lra). nra.
Qed.

(** [prop-four-filter] The filter of the approximation: [h] is the only minimizer. *)
Theorem four_filter_approximation a : 0 < a -> a <> h -> approximation h < approximation a.
Proof. apply only_minimizer, approximation_turns. Qed.

(** [prop-four-filter] The filter of the reconstruction: [h + d^2 / s^2] is the only minimizer. *)
Theorem four_filter_reconstruction a :
  0 < a -> a <> h + d^2 / s^2 -> reconstruction (h + d^2 / s^2) < reconstruction a.
Proof. apply only_minimizer, reconstruction_turns. Qed.

(** [prop-four-filter] The filter of the divergence: [h + t / s^2] is the only minimizer. *)
Theorem four_filter_divergence a :
  0 < a -> a <> h + t / s^2 -> divergence (h + t / s^2) < divergence a.
Proof. apply only_minimizer, divergence_turns. Qed.

(** [prop-four-filter] The filter of the log-determinant, [(h + sqrt (h^2 + 4 t / s^2)) / 2], is the only minimizer. *)
Theorem four_filter_log_det a :
  0 < a -> a <> log_det_slope -> log_det log_det_slope < log_det a.
Proof. apply only_minimizer, log_det_turns. Qed.

(** ** Clipped filters *)

Definition clip (c C a : R) := Rmax c (Rmin C a).

Lemma clipped_minimizer f b c C a : turns_at f b -> 0 < c <= C ->
  c <= a <= C -> a <> clip c C b -> f (clip c C b) < f a.
Proof.
  intros [b_pos turn] order inside other. revert other. unfold clip, Rmin.
  destruct (Rle_dec C b); unfold Rmax; destruct (Rle_dec c _); intro other; try lra.
  - destruct (turn a C); lra.
  - destruct (Rtotal_order a b) as [|[|]]; [destruct (turn a b)| |destruct (turn b a)]; try lra.
  - destruct (turn c a); lra.
Qed.

(** [prop-four-clip] For [n = 1] and multiplication by a number [a] in the interval: the clipped filter is the only
    minimizer of each of the four losses. (Negative slopes, matrices and functions are treated in the chapter.) *)
Theorem four_clip_minimizer f b c C a :
  In (f, b) ((approximation, h) :: (reconstruction, h + d^2 / s^2) ::
    (divergence, h + t / s^2) :: (log_det, log_det_slope) :: nil) ->
  0 < c <= C -> c <= a <= C -> a <> clip c C b -> f (clip c C b) < f a.
Proof.
  simpl. intro one. apply clipped_minimizer.
  repeat destruct one as [one|one]; try injection one as <- <-; try contradiction;
  auto using approximation_turns, reconstruction_turns, divergence_turns, log_det_turns.
Qed.
End Losses.

(** [prop-ap-clip] What both parts use of step 4 in the proof of the clipped filters, on the line: the clipped number
    is the nearest of the interval, and any other is farther, by at least its distance from the clipped one, both
    squared. *)
Theorem ap_clip_nearest c C h a : c <= a <= C ->
  (clip c C h - h)^2 + (a - clip c C h)^2 <= (a - h)^2.
Proof.
  intro inside. unfold clip, Rmax, Rmin.
  destruct (Rle_dec C h); destruct (Rle_dec c _); nra.
Qed.

(** ** Half a step with the log-determinant, for a Gaussian prior

    [u] is the quotient of the variances of noise and prior. The posterior mean has the slope [1 / (1 + u)], the
    inverse of the filter of the log-determinant has the slope [explicit_slope]. *)

Definition explicit_slope (t : R) := 2 / (1 + sqrt (1 + 4 * t)).

(** [prop-ld-orders] The slope [explicit_slope] belongs to the filter of the log-determinant. *)
Theorem ld_orders_slope s t : 0 < s -> 0 < t -> / log_det_slope 1 s t = explicit_slope (t / s^2).
Proof.
  intros s_pos t_pos. unfold explicit_slope, log_det_slope.
  replace (1^2 + 4 * t / s^2) with (1 + 4 * (t / s^2)) by (field; lra).
  pose proof (sqrt_pos (1 + 4 * (t / s^2))). field. lra.
Qed.

(** [prop-ld-orders] Part 2 for Gaussians: without the half step the error is [u^2], up to [4 u^3]. *)
Theorem ld_orders_plain u : 0 <= u ->
  u^2 - 4 * u^3 <= explicit_slope u - / (1 + u) <= u^2.
Proof.
  intro u_pos. unfold explicit_slope. set (r := sqrt (1 + 4 * u)).
  assert (square : r * r = 1 + 4 * u) by (apply sqrt_sqrt; lra).
  assert (1 <= r) by (unfold r; apply Rle_trans with (sqrt 1); [rewrite sqrt_1|apply sqrt_le_1_alt]; lra).
  replace u with ((r * r - 1) / 4) by lra. clearbody r. clear square u_pos u.
  set (p := r - 1). replace r with (1 + p) by (unfold p; ring). assert (0 <= p) by (unfold p; lra).
  clearbody p. clear dependent r.
  set (w := (2 + p)^3 * (4 + 2 * p + p^2)).
  assert (powers : forall k, 0 <= p^k) by (intro; apply pow_le; lra).
  pose proof (powers 2%nat). pose proof (powers 3%nat). pose proof (powers 4%nat).
  pose proof (powers 5%nat). pose proof (powers 6%nat). pose proof (powers 7%nat).
  assert (32 <= w) by (unfold w; nra).
  set (u := ((1 + p) * (1 + p) - 1) / 4).
  assert (error : 2 / (1 + (1 + p)) - / (1 + u) = u^2 * (32 / w)).
  { unfold u, w. field. nra. }
  rewrite error.
  assert (32 / w <= 1) by (apply Rmult_le_reg_r with w; [lra|]; field_simplify; lra).
  assert (1 - 4 * u <= 32 / w).
  { apply Rmult_le_reg_r with w; [lra|]. replace (32 / w * w) with 32 by (field; lra).
    unfold u, w. nra. }
  assert (0 <= u^2) by nra. split; nra.
Qed.

(** [prop-ld-orders] Part 4 for Gaussians: with the half step the error is of the third order, with the constant 1/4. *)
Theorem ld_orders_half u : 0 <= u ->
  0 <= / (1 + u) - (1 + 2 * (explicit_slope (u / 2) - 1)) <= / 4 * u^3.
Proof.
  intro u_pos. unfold explicit_slope. set (r := sqrt (1 + 4 * (u / 2))).
  assert (square : r * r = 1 + 2 * u) by (unfold r; rewrite sqrt_sqrt; lra).
  assert (1 <= r) by (unfold r; apply Rle_trans with (sqrt 1); [rewrite sqrt_1|apply sqrt_le_1_alt]; lra).
  replace u with ((r * r - 1) / 2) by lra. clearbody r. clear square u_pos u.
  set (p := r - 1). replace r with (1 + p) by (unfold p; ring). assert (0 <= p) by (unfold p; lra).
  clearbody p. clear dependent r.
  assert (0 <= p^2) by nra. assert (0 <= p^3) by (apply pow_le; lra).
  set (w := (2 + p) * (2 + 2 * p + p^2)). assert (4 <= w) by (unfold w; nra).
  set (u := ((1 + p) * (1 + p) - 1) / 2).
  assert (error : / (1 + u) - (1 + 2 * (2 / (1 + (1 + p)) - 1)) = p^3 * / w).
  { unfold u, w. field. nra. }
  rewrite error. assert (0 < / w) by (apply Rinv_0_lt_compat; lra).
  assert (/ w <= / 4) by (apply Rinv_le_contravar; lra).
  assert (p <= u) by (unfold u; nra).
  assert (p^3 <= u^3) by (apply pow_incr; lra). split; nra.
Qed.

(** [prop-ld-half] In the norm of [1 / h] the loss, times [h], is that for [h t] instead of [t]; so this is the slope
    of the inverse. *)
Theorem ld_half_slope h s t : 0 < h -> 0 < s -> 0 < t ->
  / log_det_slope h s (h * t) = explicit_slope (t / (h * s^2)) / h.
Proof.
  intros h_pos s_pos t_pos. unfold explicit_slope, log_det_slope. assert (0 < s^2) by nra.
  assert (0 < h * s^2) by now apply Rmult_lt_0_compat.
  assert (0 < t / (h * s^2)) by (apply Rdiv_lt_0_compat; lra).
  replace (h^2 + 4 * (h * t) / s^2) with (h^2 * (1 + 4 * (t / (h * s^2)))) by (field; lra).
  rewrite sqrt_mult by nra. rewrite (sqrt_pow2 h) by lra.
  pose proof (sqrt_pos (1 + 4 * (t / (h * s^2)))). field. split; [lra|]. nra.
Qed.

(** [prop-ld-half] Part 2 for Gaussians, in the direction of the eigenvalue [h], with [v = d^2 / (h s^2)]. *)
Theorem ld_half_any h v : 0 < h -> 0 <= v ->
  0 <= / (h * (1 + v)) - (/ h + 2 * (explicit_slope (v / 2) / h - / h)) <= / (4 * h) * v^3.
Proof.
  intros h_pos v_pos. pose proof (ld_orders_half v v_pos) as [low high].
  set (e := / (1 + v) - (1 + 2 * (explicit_slope (v / 2) - 1))) in *.
  assert (error : / (h * (1 + v)) - (/ h + 2 * (explicit_slope (v / 2) / h - / h)) = e * / h)
    by (unfold e; field; lra).
  rewrite error. assert (0 < / h) by now apply Rinv_0_lt_compat.
  replace (/ (4 * h) * v^3) with (/ 4 * v^3 * / h) by (field; lra). split; nra.
Qed.
