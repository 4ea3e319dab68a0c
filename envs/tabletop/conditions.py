"""Randomized conditions of the episodes in the models of N simulations."""

from __future__ import annotations

import numpy as np
from mjbatch import Batch

from rpd.envs.tabletop import domain_randomization
from rpd.envs.tabletop.mjcf import World


class Conditions:
    """Draws the conditions of episodes, and writes those of the physics into the models of the simulations.

    Attributes:
        names: randomized conditions, see `domain_randomization.CHOICES`.
    """

    def __init__(self, batch: Batch, world: World, names: frozenset[str]) -> None:
        """Bind to the simulations of `batch`, built from `world`."""
        self.names, self._batch, self._model = names, batch, world.model
        self._joints, self._object = len(world.arm), world.object_qpos is not None
        fields: list[str] = ["geom_friction"] if "friction" in names else []
        fields += ["body_mass", "body_inertia"] if "mass" in names else []
        fields += ["actuator_gainprm", "actuator_biasprm"] if "gains" in names else []
        self._fields = {field: batch.expand(field) for field in fields}

    def arrays(self) -> dict[str, np.ndarray]:
        """Conditions by name, of N environments without randomization; see `domain_randomization.draw`."""
        n = self._batch.num_sims
        return {
            "friction": np.ones(n),
            "mass": np.ones(n),
            "delay": np.zeros(n, dtype=np.int64),  # in addition to the robot's own
            "age": np.zeros(n),
            "noise": np.zeros(n),
            "gains": np.ones((n, 3)),
            "limits": np.ones(n),
            "camera": np.zeros((n, 6)),
            "exposure": np.ones((n, 3)),
        }

    def draw(self, state: dict[str, np.ndarray], ids: np.ndarray, seeds: np.ndarray) -> None:
        """Set the conditions of the episodes of `seeds` [K] in the environments `ids` [K]."""
        for name, values in domain_randomization.draw(seeds, self.names).items():
            state[name][ids] = values
        self.apply(state, ids)

    def apply(self, state: dict[str, np.ndarray], ids: np.ndarray) -> None:
        """Write the conditions in `state` into the models of the environments `ids` [K]."""
        model, fields = self._model, self._fields
        if "friction" in self.names:
            fields["geom_friction"][ids] = model.geom_friction * state["friction"][ids, None, None]
        if "gains" in self.names:  # a position servo: force = kp (goal - position) - kv velocity
            stiffness, damping = state["gains"][ids, 0, None], state["gains"][ids, 1, None]
            n = self._joints
            fields["actuator_gainprm"][ids, :n, 0] = model.actuator_gainprm[:n, 0] * stiffness
            fields["actuator_biasprm"][ids, :n, 1] = model.actuator_biasprm[:n, 1] * stiffness
            fields["actuator_biasprm"][ids, :n, 2] = model.actuator_biasprm[:n, 2] * damping
        if "mass" in self.names and self._object:
            body, factor = model.body("object").id, state["mass"][ids]
            fields["body_mass"][ids, body] = model.body_mass[body] * factor
            fields["body_inertia"][ids, body] = model.body_inertia[body] * factor[:, None]
            self._batch.set_const(ids=ids)  # recomputes what MuJoCo derives from masses, such as contact stiffness
