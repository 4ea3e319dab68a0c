"""Differential inverse kinematics for N arms, and its quaternion algebra (numpy, wxyz, unit)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def dls(
    jacp: Array, jacr: Array, pos_err: Array, rot_err: Array, damping: float, rot_weight: float, posture: Array | None = None
) -> Array:
    """Damped least squares: joint displacement that minimizes a pose error.

    dq = z + J^T (J J^T + damping^2 I)^-1 (e - J z), with J = [Jp; w Jr], e = [ep; w er]: Wampler, "Manipulator
    inverse kinematic solutions based on vector formulations and damped least-squares methods" (1986); the
    null-space term z as in Liegeois (1977).

    Args:
        jacp: [N, 3, n] position Jacobian, world frame.
        jacr: [N, 3, n] rotation Jacobian, world frame.
        pos_err: [N, 3] target minus current position, m.
        rot_err: [N, 3] rotation vector from current to target, world frame, rad.
        damping: lambda, m: bounds the step near singularities.
        rot_weight: w, m/rad: a small weight makes arms with fewer than six joints track the position first.
        posture: [N, n] preferred joint displacement z, applied in the null space of the task.

    Returns:
        [N, n] joint displacement, rad.
    """
    jac = np.concatenate((jacp, rot_weight * jacr), axis=1)
    err = np.concatenate((pos_err, rot_weight * rot_err), axis=1)[..., None]
    if posture is not None:
        err = err - jac @ posture[..., None]
    jac_t = jac.transpose(0, 2, 1)
    gram = jac @ jac_t
    gram[:, np.arange(6), np.arange(6)] += damping**2
    dq = (jac_t @ np.linalg.solve(gram, err))[..., 0]
    return dq if posture is None else dq + posture


def joint_targets(
    joints: Array,
    lower: Array,
    upper: Array,
    jacp: Array,
    jacr: Array,
    pos_err: Array,
    rot_err: Array,
    damping: float,
    rot_weight: float,
    posture: Array | None = None,
) -> Array:
    """Joint positions from `dls` within limits: motion that a joint at its limit cannot make is assigned to the other joints.

    Args:
        joints: [N, n] current positions, rad.
        lower: [n] limits, rad.
        upper: [n] limits, rad.
        jacp: this and all following arguments: see `dls`.
        jacr: see `dls`.
        pos_err: see `dls`.
        rot_err: see `dls`.
        damping: see `dls`.
        rot_weight: see `dls`.
        posture: see `dls`.

    Returns:
        [N, n] joint positions, rad.
    """
    wanted = dls(jacp, jacr, pos_err, rot_err, damping, rot_weight, posture)
    step = np.clip(wanted, lower - joints, upper - joints)
    stuck = step != wanted
    rows = np.flatnonzero(stuck.any(axis=1))
    if rows.size:
        free, fixed = ~stuck[rows], np.where(stuck[rows], step[rows], 0.0)
        jp, jr = jacp[rows], jacr[rows]
        left_p, left_r = pos_err[rows] - (jp @ fixed[..., None])[..., 0], rot_err[rows] - (jr @ fixed[..., None])[..., 0]
        z = None if posture is None else posture[rows] * free
        step[rows] = fixed + dls(jp * free[:, None], jr * free[:, None], left_p, left_r, damping, rot_weight, z)
    return np.clip(joints + step, lower, upper)


def quat_mul(a: Array, b: Array) -> Array:
    """Hamilton product [..., 4]: rotate by `b`, then by `a`."""
    aw, ax, ay, az = (a[..., i] for i in range(4))
    bw, bx, by, bz = (b[..., i] for i in range(4))
    return np.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        axis=-1,
    )


def quat_conj(q: Array) -> Array:
    """Inverse of unit quaternions [..., 4]."""
    return q * np.array((1, -1, -1, -1), dtype=q.dtype)


def quat_to_rotvec(q: Array) -> Array:
    """Rotation vector [..., 3] (axis x angle, angle in [0, pi]) of unit quaternions [..., 4]."""
    w, v = q[..., :1], q[..., 1:]
    w, v = np.abs(w), np.where(w < 0, -v, v)  # q and -q are the same rotation: take the shorter path
    sine = np.linalg.norm(v, axis=-1, keepdims=True)
    # angle / sin(angle / 2) tends to 2 as the angle tends to 0
    return v * np.where(sine > 1e-7, 2 * np.arctan2(sine, w) / np.maximum(sine, 1e-7), 2.0)


def rotvec_to_quat(v: Array) -> Array:
    """Unit quaternions [..., 4] of rotation vectors [..., 3]."""
    angle = np.linalg.norm(v, axis=-1, keepdims=True)
    return np.concatenate((np.cos(angle / 2), v * (0.5 * np.sinc(angle / (2 * np.pi)))), axis=-1)


def mat_to_quat(m: Array) -> Array:
    """Unit quaternions [..., 4] with w >= 0 of rotation matrices [..., 3, 3].

    The magnitude of each component follows from the diagonal; the largest is used, and the signs are taken from its row of
    products (Shepperd, 1978), which is accurate for any rotation.
    """
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 1, 0] + m[..., 0, 1], m[..., 2, 0] + m[..., 0, 2], m[..., 2, 1] + m[..., 1, 2]
    products = np.stack(  # 4 q q^T
        (1 + xx + yy + zz, wx, wy, wz, wx, 1 + xx - yy - zz, xy, xz, wy, xy, 1 - xx + yy - zz, yz,
         wz, xz, yz, 1 - xx - yy + zz), axis=-1,
    ).reshape(*m.shape[:-2], 4, 4)  # fmt: skip
    largest = np.argmax(np.diagonal(products, axis1=-2, axis2=-1), axis=-1)
    row = np.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :]
    row = np.where(row[..., :1] < 0, -row, row)
    return row / np.linalg.norm(row, axis=-1, keepdims=True)


def rotation_error(target: Array, current: Array) -> Array:
    """Rotation vector [..., 3], world frame, that rotates `current` to `target` (unit quaternions [..., 4])."""
    return quat_to_rotvec(quat_mul(target, quat_conj(current)))


def yaw(q: Array) -> Array:
    """Heading of the x axis of unit quaternions [..., 4] in the xy plane: angle [...] from the base x axis, rad."""
    w, x, y, z = (q[..., i] for i in range(4))
    return np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))


def quat_to_mat(q: Array) -> Array:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4]."""
    w, x, y, z = (q[..., i] for i in range(4))
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return np.stack(rows, axis=-1).reshape(*q.shape[:-1], 3, 3)
