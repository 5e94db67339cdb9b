(** Vectors are functions of the index, sums are finite. The lemmas of this file serve the others; no statement of the
    book is here. *)

From Coq Require Export Reals Lra Lia Psatz.
Open Scope R_scope.

Fixpoint sum (n : nat) (f : nat -> R) : R :=
  match n with O => 0 | S m => sum m f + f m end.

Lemma sum_ext n f g : (forall i, (i < n)%nat -> f i = g i) -> sum n f = sum n g.
Proof.
  induction n as [|n IH]; intro same; simpl; [reflexivity|].
  rewrite IH, same; auto.
Qed.

Lemma sum_linear n u v f g :
  sum n (fun i => u * f i + v * g i) = u * sum n f + v * sum n g.
Proof. induction n as [|n IH]; simpl; [|rewrite IH]; ring. Qed.

Lemma sum_plus n f g : sum n (fun i => f i + g i) = sum n f + sum n g.
Proof. induction n as [|n IH]; simpl; [|rewrite IH]; ring. Qed.

Lemma sum_minus n f g : sum n (fun i => f i - g i) = sum n f - sum n g.
Proof. induction n as [|n IH]; simpl; [|rewrite IH]; ring. Qed.

Lemma sum_scale n u f : sum n (fun i => u * f i) = u * sum n f.
Proof. induction n as [|n IH]; simpl; [|rewrite IH]; ring. Qed.

Lemma sum_swap n m f :
  sum n (fun i => sum m (fun j => f i j)) = sum m (fun j => sum n (fun i => f i j)).
Proof.
  induction n as [|n IH]; simpl.
  - induction m as [|m IH]; simpl; [reflexivity|]. rewrite <- IH. ring.
  - rewrite IH, <- sum_plus. reflexivity.
Qed.

Lemma sum_nonneg n f : (forall i, (i < n)%nat -> 0 <= f i) -> 0 <= sum n f.
Proof.
  induction n as [|n IH]; intro f_pos; simpl; [lra|].
  assert (0 <= f n) by auto. assert (0 <= sum n f) by auto. lra.
Qed.

Lemma sum_le n f g : (forall i, (i < n)%nat -> f i <= g i) -> sum n f <= sum n g.
Proof.
  intro below. enough (0 <= sum n (fun i => g i - f i)) by (rewrite sum_minus in *; lra).
  apply sum_nonneg. intros i small. specialize (below i small). lra.
Qed.

Lemma sum_pos n f i : (forall j, (j < n)%nat -> 0 <= f j) -> (i < n)%nat -> f i <= sum n f.
Proof.
  induction n as [|n IH]; intros f_pos small; [lia|]. simpl.
  assert (0 <= sum n f) by (apply sum_nonneg; auto).
  assert (0 <= f n) by auto.
  destruct (Nat.eq_dec i n) as [->|]; [lra|].
  assert (f i <= sum n f) by (apply IH; auto; lia). lra.
Qed.

(** ** Vectors *)

Definition vector := nat -> R.
Declare Scope vector_scope.
Delimit Scope vector_scope with V.
Bind Scope vector_scope with vector.

Definition plus (a b : vector) : vector := fun i => a i + b i.
Definition minus (a b : vector) : vector := fun i => a i - b i.
Definition scale (u : R) (a : vector) : vector := fun i => u * a i.
Notation "a + b" := (plus a b) : vector_scope.
Notation "a - b" := (minus a b) : vector_scope.
Notation "u * a" := (scale u a) : vector_scope.

Definition dot n (a b : vector) : R := sum n (fun i => a i * b i).
Definition norm n (a : vector) : R := sqrt (dot n a a).
Definition equal n (a b : vector) : Prop := forall i, (i < n)%nat -> a i = b i.

Definition matrix := nat -> vector.
Definition apply n (M : matrix) (a : vector) : vector := fun i => dot n (M i) a.
Definition symmetric (M : matrix) : Prop := forall i j, M i j = M j i.

Section Rules.
Variable n : nat.
Implicit Types a b c : vector.

Lemma dot_sym a b : dot n a b = dot n b a.
Proof. apply sum_ext. intros. ring. Qed.

Lemma dot_plus a b c : dot n (a + b)%V c = dot n a c + dot n b c.
Proof. unfold dot. rewrite <- sum_plus. apply sum_ext. intros. unfold plus. ring. Qed.

Lemma dot_minus a b c : dot n (a - b)%V c = dot n a c - dot n b c.
Proof. unfold dot. rewrite <- sum_minus. apply sum_ext. intros. unfold minus. ring. Qed.

Lemma dot_scale u a c : dot n (u * a)%V c = u * dot n a c.
Proof. unfold dot. rewrite <- sum_scale. apply sum_ext. intros. unfold scale. ring. Qed.

Lemma dot_plus_r a b c : dot n c (a + b)%V = dot n c a + dot n c b.
Proof. rewrite dot_sym, dot_plus, (dot_sym a), (dot_sym b). reflexivity. Qed.

Lemma dot_minus_r a b c : dot n c (a - b)%V = dot n c a - dot n c b.
Proof. rewrite dot_sym, dot_minus, (dot_sym a), (dot_sym b). reflexivity. Qed.

Lemma dot_scale_r u a c : dot n c (u * a)%V = u * dot n c a.
Proof. rewrite dot_sym, dot_scale, (dot_sym a). reflexivity. Qed.

Lemma dot_equal a b c : equal n a b -> dot n a c = dot n b c.
Proof. intro same. apply sum_ext. intros. rewrite same; auto. Qed.

Lemma dot_equal_r a b c : equal n a b -> dot n c a = dot n c b.
Proof. intro same. rewrite !(dot_sym c). now apply dot_equal. Qed.

Lemma equal_or_not a b : equal n a b \/ ~ equal n a b.
Proof.
  clear. induction n as [|m [same|differ]].
  - left. intros i small. lia.
  - destruct (Req_dec (a m) (b m)) as [last|last].
    + left. intros i small. destruct (Nat.eq_dec i m) as [->|]; [exact last|]. apply same. lia.
    + right. intro all. apply last, all. lia.
  - right. intro all. apply differ. intros i small. apply all. lia.
Qed.

Lemma dot_nonneg a : 0 <= dot n a a.
Proof. apply sum_nonneg. intros. nra. Qed.

Lemma dot_zero a : dot n a a = 0 -> forall i, (i < n)%nat -> a i = 0.
Proof.
  intros zero i small.
  assert (a i * a i <= 0).
  { rewrite <- zero. unfold dot. apply (sum_pos n (fun j => a j * a j)); auto. intros. nra. }
  nra.
Qed.

Lemma norm_nonneg a : 0 <= norm n a.
Proof. apply sqrt_pos. Qed.

Lemma norm_square a : norm n a * norm n a = dot n a a.
Proof. apply sqrt_sqrt, dot_nonneg. Qed.

Lemma norm_equal a b : equal n a b -> norm n a = norm n b.
Proof. intro same. unfold norm. rewrite (dot_equal a b), (dot_equal_r a b); auto. Qed.

Lemma norm_zero a b : norm n (a - b)%V <= 0 -> equal n a b.
Proof.
  intros zero i small. pose proof (norm_nonneg (a - b)%V).
  enough ((a - b)%V i = 0) by (unfold minus in *; lra).
  apply dot_zero; auto. rewrite <- norm_square. nra.
Qed.

Lemma norm_le a u : 0 <= u -> dot n a a <= u * u -> norm n a <= u.
Proof. intros u_pos below. rewrite <- (sqrt_square u); auto. now apply sqrt_le_1_alt. Qed.

(** The inequality of Cauchy and Schwarz, for every symmetric form that is nowhere negative. *)
Lemma cauchy_form (form : vector -> vector -> R) a b :
  (forall x y, form x y = form y x) ->
  (forall x y z, form (x - y)%V z = form x z - form y z) ->
  (forall u x z, form (u * x)%V z = u * form x z) ->
  (forall x, 0 <= form x x) ->
  form a b * form a b <= form a a * form b b.
Proof.
  intros sym sub mul pos.
  assert (square : forall u v, 0 <= u * u * form a a - 2 * u * v * form a b + v * v * form b b).
  { intros u v. pose proof (pos (u * a - v * b)%V) as p.
    rewrite sub, !mul, (sym a), (sym b (_ - _)%V), !sub, !mul, (sym b a) in p.
    nra. }
  pose proof (square (form b b) (form a b)) as one.
  pose proof (square (form a b) (form a a)) as two.
  pose proof (pos a). pose proof (pos b).
  destruct (Rle_lt_or_eq_dec 0 (form b b)) as [b_pos|b_zero]; auto; [nra|].
  destruct (Rle_lt_or_eq_dec 0 (form a a)) as [a_pos|a_zero]; auto; [nra|].
  pose proof (square 1 1). pose proof (square 1 (-1)). nra.
Qed.

Lemma cauchy a b : dot n a b <= norm n a * norm n b.
Proof.
  assert (dot n a b * dot n a b <= dot n a a * dot n b b).
  { apply cauchy_form; auto using dot_sym, dot_minus, dot_scale, dot_nonneg. }
  rewrite <- !norm_square in *. pose proof (norm_nonneg a). pose proof (norm_nonneg b).
  assert (0 <= norm n a * norm n b) by nra.
  destruct (Rle_lt_dec (dot n a b) (norm n a * norm n b)); auto. nra.
Qed.

Lemma norm_plus a b : norm n (a + b)%V <= norm n a + norm n b.
Proof.
  pose proof (norm_nonneg a). pose proof (norm_nonneg b).
  apply norm_le; [lra|]. rewrite dot_plus, !dot_plus_r, (dot_sym b a), <- !norm_square.
  pose proof (cauchy a b). nra.
Qed.

Lemma norm_scale u a : norm n (u * a)%V = Rabs u * norm n a.
Proof.
  unfold norm. rewrite dot_scale, dot_scale_r.
  replace (u * (u * dot n a a)) with (Rsqr u * dot n a a) by (unfold Rsqr; ring).
  rewrite sqrt_mult, sqrt_Rsqr_abs; auto using dot_nonneg. apply Rle_0_sqr.
Qed.

Lemma norm_swap a b : norm n (a - b)%V = norm n (b - a)%V.
Proof.
  transitivity (norm n (-1 * (b - a))%V).
  - apply norm_equal. intros i _. unfold minus, scale. ring.
  - rewrite norm_scale, Rabs_left; lra.
Qed.

Lemma norm_triangle a b c : norm n (a - c)%V <= norm n (a - b)%V + norm n (b - c)%V.
Proof.
  replace (norm n (a - c)%V) with (norm n ((a - b) + (b - c))%V); [apply norm_plus|].
  apply norm_equal. intros i _. unfold minus, plus. ring.
Qed.

Lemma apply_minus M a b : equal n (apply n M (a - b)%V) (apply n M a - apply n M b)%V.
Proof. intros i _. unfold apply. now rewrite dot_minus_r. Qed.

Lemma apply_sym M a b : symmetric M -> dot n a (apply n M b) = dot n b (apply n M a).
Proof.
  intro sym. unfold apply, dot.
  transitivity (sum n (fun i => sum n (fun j => a i * M i j * b j))).
  { apply sum_ext. intros. rewrite <- sum_scale. apply sum_ext. intros. ring. }
  rewrite sum_swap. apply sum_ext. intros j _. rewrite <- sum_scale. apply sum_ext. intros i _.
  rewrite (sym j i). ring.
Qed.

Lemma apply_plus M a b : equal n (apply n M (a + b)%V) (apply n M a + apply n M b)%V.
Proof. intros i _. unfold apply. now rewrite dot_plus_r. Qed.

End Rules.

(** ** Expectations *)

(** What the proofs use of an expectation. Here every function has one. So it is for weights on finitely many points,
    [finite], and not for a random vector with a density: there the same lines hold for the functions that have an
    expectation, which is shown in the chapters. *)
Record expectation (W : Type) := {
  mean :> (W -> R) -> R;
  mean_linear : forall u v f g, mean (fun w => u * f w + v * g w) = u * mean f + v * mean g;
  mean_nonneg : forall f, (forall w, 0 <= f w) -> 0 <= mean f;
  mean_one : mean (fun _ => 1) = 1;
  mean_ext : forall f g, (forall w, f w = g w) -> mean f = mean g
}.

Definition finite (m : nat) (p : nat -> R) (pos : forall i, 0 <= p i) (one : sum m p = 1) : expectation nat.
Proof.
  refine {| mean := fun f => sum m (fun i => p i * f i) |}.
  - intros u v f g. rewrite <- sum_linear. apply sum_ext. intros i _. simpl. ring.
  - intros f f_pos. apply sum_nonneg. intros i _. apply Rmult_le_pos; auto.
  - transitivity (sum m p); [|exact one]. apply sum_ext. intros i _. simpl. ring.
  - intros f g same. apply sum_ext. intros i _. now rewrite same.
Defined.
