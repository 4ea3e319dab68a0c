"""Renamed options: an error about a name of version 0.1 gives the current name."""

from __future__ import annotations

from collections.abc import Collection

from rpd.envs.errors import ConfigError, unknown_name

RENAMED = {
    "aggregate": "aggregate_dataset",
    "checkpoint_every": "save_freq",
    "denoise.batch_size": "bc.batch_size",
    "denoise.ema": "bc.ema_decay",
    "denoise.lr": "bc.learning_rate",
    "denoise.sampler": "bc.sampler",
    "denoise.warmup": "bc.warmup_steps",
    "denoise.weight_decay": "bc.weight_decay",
    "diffusion.levels": "diffusion.num_train_timesteps",
    "diffusion.n_obs": "diffusion.n_obs_steps",
    "distill.bin_blur": "distill.bin_smoothing_std",
    "distill.bin_floor": "distill.uniform_mix",
    "distill.preserve_mean": "distill.normalize_gate",
    "distill.teacher_std": "distill.min_teacher_std",
    "distill.decay_fraction": "distill.decay_steps",
    "distill.until": "distill.decay_steps",
    "env.frames": "env.frame_stack",
    "env.obs": "env.obs_mode",
    "env.randomize": "env.domain_randomization",
    "eval_every": "eval_freq",
    "execute": "n_action_steps",
    "failure_weight": "failed_episode_weight",
    "final_episodes": "final_eval_episodes",
    "generalist.describe": "generalist.descriptor_keys",
    "init": "pretrained_path",
    "keep_checkpoints": "max_checkpoints",
    "lr": "learning_rate",
    "mode": "algorithm",
    "obs": "obs_mode",
    "perception.keep": "state_estimator.replay_capacity",
    "perception.lr": "state_estimator.learning_rate",
    "perception.minibatch_size": "state_estimator.minibatch_size",
    "perception.minibatches": "state_estimator.num_minibatches",
    "ppo.clip": "ppo.clip_coef",
    "ppo.clip_value": "ppo.value_clip",
    "ppo.entropy_coef": "ppo.ent_coef",
    "ppo.epochs": "ppo.update_epochs",
    "ppo.lr": "ppo.learning_rate",
    "ppo.minibatches": "ppo.num_minibatches",
    "ppo.value_coef": "ppo.vf_coef",
    "randomize": "domain_randomization",
    "residual.alpha_start": "residual.alpha_init",
    "residual.discrete_odds": "residual.base_logit_scale",
    "residual.ramp": "residual.alpha_warmup_fraction",
    "residual.sees": "residual.base_input",
    "rounds": "dagger_iterations",
    "steps": "train_steps",
    "student.hidden": "student.hidden_dims",
    "student.image_features": "student.image_feature_dim",
    "student.kind": "student.type",
    "student.perceive": "student.state_estimator",
    "student.reads": "student.state_keys",
    "teacher": "policy",
    "teacher_std": "min_teacher_std",
    "total_steps": "total_timesteps",
    "warmup": "warmup_steps",
}
"""Old dotted name -> new dotted name."""


def unknown_option(kind: str, given: str, valid: Collection[str]) -> ConfigError:
    """Build the error for an unknown option: its new name if it was renamed, else the nearest names.

    Args:
        kind: kind of name for the message, e.g. ``"option"``.
        given: the name as the user wrote it, e.g. ``"--ppo.lr"`` or ``"ppo.lr"``.
        valid: existing dotted names, e.g. ``"ppo.learning_rate"``.
    """
    flag = given.startswith("--")

    def written(name: str) -> str:
        return "--" + name.replace("_", "-") if flag else name

    new = RENAMED.get(given.removeprefix("--").replace("-", "_") if flag else given)
    renamed = None if new is None else {given: written(new)}
    return unknown_name(kind, given, [written(name) for name in valid], renamed)
