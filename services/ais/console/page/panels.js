// The plots of the page: which quantities of a step, on which scale, and how to read them.
const shares = { share: true };
const zero = { fromZero: true };

export const SECTIONS = [
  { id: "learning", title: "Learning", panels: [
    { title: "Reward", wide: true, scores: true, share: true, series: [["reward_mean", "training batches, as sampled"]],
      caption: "Mean reward of the batches, and of held-out prompts with 95% intervals: of the BF16 policy and of the same policy in the number formats it is sampled in." },
    { title: "Components of the reward", prefix: "reward_components.", many: true,
      caption: "Mean score of each named component over the batch, before its weight." },
    { title: "Failed judgements", prefix: "judgements_failed.", fromZero: true, unit: "responses",
      caption: "Responses that a verifier could not judge, by reason; each counts as a score of 0." },
  ] },
  { id: "mismatch", title: "Mismatch and its correction", panels: [
    { title: "Mixing coefficient alpha", wide: true, ...shares,
      series: [["alpha", "alpha"], ["severity", "severity"], ["reliability", "reliability"], ["amplification", "amplification"]],
      caption: "0: the gradient is not corrected; 1: it is fully importance-weighted. Alpha is the product of its three factors and of alpha_max." },
    { title: "Divergence: mean |log-ratio|", unit: "nats", ...zero, series: [["log_ratio_abs_mean", "mean |log-ratio|"]],
      thresholds: [["correction.mixing.severity_scale", "severity is one half"], ["correction.mixing.mismatch_limit", "limit of trust"]],
      caption: "How far the log-probs of rollout and trainer are apart on a sampled token." },
    { title: "Reliability: effective sample", ...shares,
      series: [["ess_ratio_raw", "token, raw"], ["ess_ratio_applied", "token, applied"], ["sequence_ess_ratio_raw", "sequence, raw"], ["sequence_ess_ratio_applied", "sequence, applied"]],
      thresholds: [["correction.mixing.effective_sample_floor", "floor of the applied weights"]],
      caption: "Share of the samples that the importance weights leave effective; 1 is no mismatch." },
    { title: "Amplification: effective sequences", ...zero, series: [["effective_sequences", "effective sequences"], ["trajectories", "responses in the batch"]],
      thresholds: [["correction.mixing.amplification_batch", "amplification is one half", 1]],
      caption: "How many sequences carry the batch under the raw weights; 1 is a single one." },
    { title: "Log-ratios of the tokens", histogram: "log_ratio_counts.",
      caption: "Tokens of the step under the pointer, or of the last one, by log-ratio of trainer to rollout." },
    { title: "Variation of the ratios", ...zero, series: [["ratio_cv", "tokens"], ["weight_cv", "weights at the correction's level"]],
      caption: "Coefficient of variation: what variance full weighting would add." },
    { title: "KL divergence, rollout from trainer", unit: "nats", series: [["kl_k1", "k1"], ["kl_k3", "k3"]],
      caption: "k1 is unbiased and noisy, k3 is never negative." },
    { title: "What the weights do", ...zero, series: [["weighted_share", "weighted share"], ["weight_slope", "slope"], ["weight_mean", "mean weight"]],
      caption: "Weighted share: the part of the gradient that is importance-weighted. Slope: how much a token's weight follows its own ratio. Mean weight: the size of the step against an uncorrected one." },
  ] },
  { id: "policy", title: "Policy", panels: [
    { title: "Entropy", unit: "nats", ...zero, series: [["entropy", "entropy"]],
      caption: "At the sampled positions. A policy without entropy explores no more." },
    { title: "Batches that teach little", ...shares, series: [["zero_variance_share", "groups with equal rewards"], ["truncated_share", "responses cut off"]],
      caption: "Groups whose rewards are all equal give no gradient; responses that are cut off never finish." },
    { title: "Response length", unit: "tokens", ...zero, series: [["response_length_mean", "mean length"]], caption: "Mean over the batch." },
    { title: "Gradient norm", ...zero, series: [["gradient_norm", "gradient norm"]], caption: "Before clipping." },
    { title: "Learning rate", ...zero, series: [["learning_rate", "learning rate"]], caption: "Of the step's updates." },
    { title: "Divergence from the reference", unit: "nats", series: [["reference_kl", "KL"]], caption: "Where the objective has a reference policy." },
  ] },
  { id: "machine", title: "Machine", panels: [
    { title: "Where a step's time goes", unit: "s", prefix: "phase_seconds.", stacked: true, ...zero,
      caption: "Wait is time without enough groups: the rollouts are slower than the trainer." },
    { title: "Throughput", unit: "tokens/s", ...zero, series: [["tokens_per_second", "tokens/s"]], caption: "Response tokens trained on, by the time of the whole step." },
    { title: "Staleness", unit: "versions", ...zero, series: [["staleness_mean", "mean"], ["staleness_max", "most"]],
      caption: "Versions between the policy that sampled a response and the policy it trained." },
    { title: "Queue and fleet", ...zero, series: [["queue_depth", "groups waiting"], ["replicas", "live replicas"]],
      caption: "After each batch." },
  ] },
];

export const KEYS = SECTIONS.flatMap(({ panels }) =>
  panels.flatMap((panel) => [panel.prefix ?? panel.histogram, ...(panel.series ?? []).map(([key]) => key)].filter(Boolean)));

/** The quantities of a panel that there are, as pairs of key and label. */
export function seriesOf(panel, curves) {
  if (!panel.prefix) return panel.series.filter(([key]) => curves.series[key]?.mean.some((value) => value !== null));
  const keys = curves.keysOf(panel.prefix);
  if (panel.many && keys.length < 2) return [];
  return keys.slice(0, 10).map((key) => [key, key.slice(panel.prefix.length).replaceAll("_", " ")]);
}
