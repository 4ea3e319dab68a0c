"""Robot descriptions as data (links, gripper, servo gains), and the builder of their MuJoCo bodies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rpd.envs.errors import ConfigError
from rpd.envs.robots import plausible
from rpd.envs.specs import Embodiment

if TYPE_CHECKING:
    import mujoco  # takes long to import, and lists of tasks and robots come without it

Vec3 = tuple[float, float, float]
Quat = tuple[float, float, float, float]
Color = tuple[float, float, float, float]

# Quarter turns about x, wxyz, used by link frames.
IDENTITY: Quat = (1, 0, 0, 0)
RX90: Quat = (0.5**0.5, 0.5**0.5, 0, 0)
RX_90: Quat = (0.5**0.5, -(0.5**0.5), 0, 0)

LINK_GROUP = 2  # rendered by fixed cameras only
HAND_GROUP = 0  # always rendered, also by wrist cameras
DETECTION = 0.01  # m: contacts of the arm are reported from this distance on, and push only at 0

# Bits of contype and conaffinity: the world has 1 and 1, MuJoCo's default. Links collide with the world, each other and the
# fingers; fingers collide with the world and the links, but not with each other.
_FINGER_CONTYPE, _FINGER_CONAFFINITY = 2, 1 | 4
_LINK_CONTYPE, _LINK_CONAFFINITY = 4, 1 | 4
_NEIGHBORS = 2  # bodies at most this many joints apart touch by construction: no contacts between them
_FINGER_FRICTION = (1.0, 0.005, 0.0001)
# Twice as stiff as MuJoCo's default and with priority over the object's own: less creep of a held cube.
_FINGER_SOLREF, _FINGER_SOLMIX = (0.01, 1.0), 100.0
# Fingers rest at the ends of the servo's range, not of the joint's: a joint at its limit adds two constraints per step.
_FINGER_SLACK = 0.001
_FINGER_ARMATURE = 0.05  # kg


@dataclass(frozen=True)
class Shape:
    """A capsule or cylinder from `a` to `b` with `radius`, or (radius None) a box at `a` with half sizes `b`. Meters."""

    a: Vec3
    b: Vec3
    radius: float | None
    rgba: Color
    flat: bool = False
    """Whether it is a cylinder instead of a capsule."""

    def add(self, body: mujoco.MjsBody, group: int, mass: float) -> None:
        """Add this shape to a body as a geom that collides with the world and with other links."""
        import mujoco

        common = {"rgba": self.rgba, "group": group, "mass": mass, "gap": DETECTION}
        common |= {"contype": _LINK_CONTYPE, "conaffinity": _LINK_CONAFFINITY}
        if self.radius is None:
            body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=self.a, size=self.b, **common)
        else:
            kind = mujoco.mjtGeom.mjGEOM_CYLINDER if self.flat else mujoco.mjtGeom.mjGEOM_CAPSULE
            body.add_geom(type=kind, fromto=[*self.a, *self.b], size=[self.radius, 0, 0], **common)


@dataclass(frozen=True)
class Link:
    """A moving link and the hinge joint (about its own z axis) that connects it to the previous link."""

    joint: str
    pos: Vec3
    """Origin in the frame of the previous link, m."""
    quat: Quat
    """Orientation in the frame of the previous link, wxyz."""
    limits: tuple[float, float]
    """Joint limits, rad."""
    velocity: float
    """Maximum joint speed, rad/s."""
    torque: float
    """Maximum servo torque, N m."""
    kp: float
    """Servo stiffness, N m/rad: (40 rad/s)^2 x the inertia at the joint in the home posture."""
    kv: float
    """Servo damping, N m s/rad: a damping ratio of 0.75.

    Stiffer servos track better but drop objects: MuJoCo's implicit integrators apply arm damping after the contact solver, so
    a held object slips by the damped velocity (kv x timestep relative to the inertia).
    """
    armature: float
    """Rotor inertia reflected at the joint, kg m^2."""
    mass: float
    """Mass, kg, distributed evenly over the shapes."""
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Gripper:
    """Two parallel fingers. In its frame, z points outward and y along the opening."""

    pos: Vec3
    """Mount in the frame of the last link, m."""
    quat: Quat
    """Mount in the frame of the last link, wxyz."""
    tcp: Vec3
    """Tool center point (TCP) in the gripper frame, m."""
    finger_base: float
    """Start of the fingers along z, m."""
    finger_tip: float
    """End of the fingers along z, m."""
    finger_half_width: float
    """Half the width of a finger pad along x, m."""
    finger_thickness: float
    """Thickness of a finger along y, m."""
    mass: float
    """Mass of the hand without fingers, kg."""
    shapes: tuple[Shape, ...]
    finger_rgba: Color
    speed: float
    """Maximum speed of each finger, m/s."""
    finger_mass: float = 0.05
    kp: float = 200.0
    """Finger servo stiffness, N/m. Below `force` when squeezing, so that the pair of fingers centers itself."""
    kv: float = 20.0
    """Finger servo damping, N s/m: time constant of closing 100 ms."""
    force: float = 8.0
    """Maximum finger force of the simulated servo, N: enough for its objects, and less than a real gripper's."""
    max_force: float | None = None
    """Largest force of the real gripper, N; None: not published."""


@dataclass(frozen=True)
class Robot:
    """A robot on a table: its base frame is the world frame, on the table plane z = 0, facing +x.

    Attributes:
        name: registry name.
        base: shapes of the fixed part.
        links: moving links from base to flange.
        gripper: gripper on the last link.
        home: joint positions, rad, with the gripper pointing down over the center of the workspace and the fingers opening
            along y (SO-101: along x).
        max_delta_pos: translation of an action of +1, m per control step of 50 ms.
        max_delta_rot: rotation of an action of +1, rad per control step of 50 ms.
        workspace: ((x min, y min), (x max, y max)), m: area of top-down grasps, with yaw up to 45 degrees either way.
        max_height: largest z, m, that the TCP reaches pointing down anywhere over the workspace.
        reach: manufacturer's working radius, m.
        acceleration: maximum acceleration of each joint, rad/s^2.
        tcp_speed: maximum speed of the tool center point, m/s.
        jerk: maximum jerk of each joint, rad/s^3; empty: not published.
        payload: largest mass at the flange, gripper included, kg; None: not published.
        cube_half_size: half the edge, m, of a cube that fits the gripper.
        rot_weight: weight of rotation relative to position errors in inverse kinematics, m/rad.
        delay: delay of commands, control steps of 50 ms.
        patience: factor of a task's own episode length.
    """

    name: str
    base: tuple[Shape, ...]
    links: tuple[Link, ...]
    gripper: Gripper
    opening: float
    home: tuple[float, ...]
    max_delta_pos: float
    max_delta_rot: float
    workspace: tuple[tuple[float, float], tuple[float, float]]
    max_height: float
    reach: float
    acceleration: tuple[float, ...]
    tcp_speed: float
    cube_half_size: float
    rot_weight: float
    delay: int = 0
    patience: float = 1.0
    jerk: tuple[float, ...] = ()
    payload: float | None = None

    fingers: ClassVar[tuple[str, str]] = ("finger_left", "finger_right")
    """Slide joints: each 0 (closed) to opening / 2; their sum is the distance between the pads."""
    finger_geoms: ClassVar[tuple[str, str]] = ("pad_left", "pad_right")
    """Finger pads."""
    root: ClassVar[str] = "base"
    """Body of the fixed part, with the whole robot below it."""
    tcp_site: ClassVar[str] = "tcp"
    """Site between the fingertips: z points out of the gripper, y along the opening."""

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ConfigError: names the first that is implausible or does not fit the arm.
        """
        where, gripper = f"robot {self.name}", self.gripper
        for name, values in (("acceleration", self.acceleration), ("jerk", self.jerk or self.acceleration)):
            if len(values) != len(self.links):
                raise ConfigError(f"{where}: {name} has {len(values)} entries, and there are {len(self.links)} joints")
        plausible.check(
            where,
            {
                "velocity": [link.velocity for link in self.links], "acceleration": self.acceleration, "jerk": self.jerk,
                "tcp_speed": [self.tcp_speed], "payload": [self.payload], "gripper.speed": [gripper.speed],
                "gripper.force": [gripper.force], "gripper.max_force": [gripper.max_force],
            },
        )  # fmt: skip
        if gripper.max_force is not None and gripper.force > gripper.max_force:
            have = f"{gripper.force:g} N, and the gripper has {gripper.max_force:g} N"
            raise ConfigError(f"{where}: gripper.force: {have}")

    @property
    def joints(self) -> tuple[str, ...]:
        """Arm joint names from base to flange."""
        return tuple(link.joint for link in self.links)

    def attach(self, spec: mujoco.MjSpec, contacts: bool = True) -> None:
        """Add bodies, joints, and position servos (arm joints, then fingers; named like their joints) to a model.

        Links have mass and gravity compensation. Everything collides, but links with their neighbors and the two fingers with
        each other; without `contacts` only the fingers do, and only with the world.
        """
        import mujoco

        base = body = spec.worldbody.add_body(name=self.root)
        for shape in self.base:
            shape.add(body, LINK_GROUP, mass=1.0)
        for link in self.links:
            body = body.add_body(name=f"{link.joint}_link", pos=link.pos, quat=link.quat, gravcomp=1)
            limits = [math.degrees(limit) for limit in link.limits] if spec.compiler.degree else link.limits
            body.add_joint(name=link.joint, axis=[0, 0, 1], range=limits, limited=True, armature=link.armature)
            for shape in link.shapes:
                shape.add(body, LINK_GROUP, mass=link.mass / len(link.shapes))
            _add_servo(spec, link.joint, link.limits, link.kp, link.kv, link.torque)
        self._attach_gripper(spec, body)
        if not contacts:
            for geom in base.find_all(mujoco.mjtObj.mjOBJ_GEOM):
                pad = geom.name in self.finger_geoms
                geom.contype, geom.conaffinity = (_FINGER_CONTYPE, 1) if pad else (0, 0)
            return
        chain = [self.root, *(f"{joint}_link" for joint in self.joints), "hand"]
        for i, name in enumerate(chain):
            for near in chain[i + 1 : i + 1 + _NEIGHBORS]:
                spec.add_exclude(bodyname1=name, bodyname2=near)
        for finger in self.fingers:
            spec.add_exclude(bodyname1=chain[-2], bodyname2=f"{finger}_link")

    def _attach_gripper(self, spec: mujoco.MjSpec, flange: mujoco.MjsBody) -> None:
        import mujoco

        g = self.gripper
        hand = flange.add_body(name="hand", pos=g.pos, quat=g.quat, gravcomp=1)
        for shape in g.shapes:
            shape.add(hand, HAND_GROUP, mass=g.mass / len(g.shapes))
        hand.add_site(name=self.tcp_site, pos=g.tcp, size=[0.005, 0.005, 0.005], group=4)
        half = [g.finger_half_width, g.finger_thickness / 2, (g.finger_tip - g.finger_base) / 2]
        for joint, pad, side in zip(self.fingers, self.finger_geoms, (1, -1), strict=True):
            finger = hand.add_body(name=f"{joint}_link", pos=[g.tcp[0], g.tcp[1], g.finger_base], gravcomp=1)
            limits = (0.0, self.opening / 2)
            finger.add_joint(
                name=joint, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, side, 0], armature=_FINGER_ARMATURE,
                range=(limits[0] - _FINGER_SLACK, limits[1] + _FINGER_SLACK), limited=True,
            )  # fmt: skip
            finger.add_geom(
                name=pad, type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0, side * half[1], half[2]], size=half, rgba=g.finger_rgba,
                mass=g.finger_mass, group=HAND_GROUP, gap=DETECTION, friction=_FINGER_FRICTION,
                solref=_FINGER_SOLREF, solmix=_FINGER_SOLMIX,
                contype=_FINGER_CONTYPE, conaffinity=_FINGER_CONAFFINITY,
            )  # fmt: skip
            _add_servo(spec, joint, limits, g.kp, g.kv, g.force)

    def embodiment(self) -> Embodiment:
        """Descriptor of the robot for a policy, in SI units."""
        descriptor = {
            "reach": self.reach,
            "opening": self.opening,
            "max_delta_pos": self.max_delta_pos,
            "max_delta_rot": self.max_delta_rot,
            "delay": self.delay,
            "finger_kp": self.gripper.kp,
            "finger_force": self.gripper.force,
        }
        for i, link in enumerate(self.links, start=1):
            descriptor |= {
                f"joint{i}_lower": link.limits[0],
                f"joint{i}_upper": link.limits[1],
                f"joint{i}_velocity": link.velocity,
                f"joint{i}_torque": link.torque,
                f"joint{i}_kp": link.kp,
                f"joint{i}_kv": link.kv,
            }
        return Embodiment(name=self.name, num_joints=len(self.links), descriptor=descriptor)


def _add_servo(spec: mujoco.MjSpec, joint: str, limits: Sequence[float], kp: float, kv: float, force: float) -> None:
    import mujoco

    servo = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    servo.set_to_position(kp=kp, kv=kv)
    servo.ctrlrange, servo.ctrllimited = limits, True
    servo.forcerange, servo.forcelimited = (-force, force), True
