"""Our client against a server that speaks openpi's protocol and nothing of ours, written by hand."""

import threading
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from websockets.sync.server import serve

from rpd.cli.main import main
from rpd.envs.errors import ConfigError, ServerLost, SpecMismatch
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.teachers import registry
from rpd.teachers.base import CameraRequest

LIBERO_STATE = (
    *(f"robot0_joint_pos.{i}" for i in range(7)), "robot0_eef_pos.0", "robot0_eef_pos.1", "robot0_eef_pos.2",
    "robot0_eef_quat.qx", "robot0_eef_quat.qy", "robot0_eef_quat.qz", "robot0_eef_quat.qw",
    "robot0_gripper_qpos.0", "robot0_gripper_qpos.1", "bowl_1_pos.0", "bowl_1_pos.1", "bowl_1_pos.2",
)  # fmt: skip
POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def pack(value):
    def array(obj):
        return {b"__ndarray__": True, b"data": obj.tobytes(), b"dtype": obj.dtype.str, b"shape": obj.shape}

    return msgpack.packb(value, default=array)


def unpack(data):
    def array(fields):
        if b"__ndarray__" not in fields:
            return fields
        return np.ndarray(buffer=fields[b"data"], dtype=np.dtype(fields[b"dtype"]), shape=fields[b"shape"])

    return msgpack.unpackb(data, object_hook=array)


class Policy:
    """Serves as openpi does: metadata, one observation at a time, a traceback and a closed connection on an error.

    Action h of the chunk is `first` + 0.01 h in every dimension but the gripper, which always opens as LIBERO has it: -1.
    """

    def __init__(self, dim=7, size=8, horizon=10, wants=("observation/image", "observation/wrist_image", "observation/state")):
        self.dim, self.size, self.horizon, self.wants, self.seen = dim, size, horizon, wants, []
        self.connections = 0
        self.server = serve(self.handle, "127.0.0.1", 0, compression=None, max_size=None)
        self.url = f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, connection):
        self.connections += 1
        connection.send(pack({"reset_pose": [0.0, -1.5]}))
        for frame in connection:
            obs = unpack(frame)
            self.seen.append(obs)
            missing = [key for key in self.wants if key not in obs]
            if missing or ("observation/state" in obs and obs["observation/state"].shape != (self.size,)):
                connection.send(
                    f"Traceback (most recent call last):\n  File ...\nKeyError: {(missing or ['8 numbers'])[0]!r}\n"
                )
                connection.close(1011)
                return
            chunk = np.full((self.horizon, self.dim), 0.1) + 0.01 * np.arange(self.horizon)[:, None]  # float64
            chunk[:, -1] = -1
            connection.send(pack({"actions": chunk, "server_timing": {"infer_ms": 1.0}}))


@pytest.fixture
def policy():
    policies = []

    def start(**options):
        policies.append(Policy(**options))
        return policies[-1]

    yield start
    for policy in policies:
        policy.server.shutdown()


@pytest.fixture
def libero():
    """LIBERO's actions and state, as `rpd.envs.libero` has them, with one object."""
    return EnvSpec(
        task="libero/toy", embodiment=Embodiment(name="panda", num_joints=7, descriptor={"gripper_opening": 0.08}),
        observations={"state": ObsSpec(shape=(len(LIBERO_STATE),), dtype="float32")}, state_names=LIBERO_STATE,
        action=ActionSpec(
            names=POSE, units=("m", "m", "m", "rad", "rad", "rad", "open"), scale=(0.05,) * 3 + (0.5,) * 3 + (1.0,),
            discrete=(False,) * 6 + (True,),
        ),
        control_hz=20, max_episode_steps=280, reward="sparse",
    )  # fmt: skip


def observe(n, spec=None):
    generator = torch.Generator().manual_seed(n)
    state = torch.randn(n, len(spec.state_names) if spec else len(LIBERO_STATE), generator=generator)
    views = torch.randint(0, 256, (2, n, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return TensorDict({"state": state, "view.agentview": views[0], "view.robot0_eye_in_hand": views[1]}, [n])


def test_openpi_libero(policy, libero):
    """Its example's observation of 8 numbers and two images of 224 pixels; -1 opens; nothing of the bowl is sent."""
    served = policy()
    name = f"remote:{served.url},action_mapping=libero"
    assert registry.camera_request(name) == CameraRequest(("agentview", "robot0_eye_in_hand"), 256)
    teacher, obs = registry.make(name, libero), observe(2)
    answer = teacher.label(obs, ["a", "put the bowl"])
    torch.testing.assert_close(answer.mean, torch.tensor([[0.1] * 6 + [1.0]] * 2))  # +1 opens
    assert answer.tensors().keys() == {"mean", "valid"} and teacher.output_fields == {"mean"}
    sent = served.seen[-1]
    assert sent.keys() == {"observation/image", "observation/wrist_image", "observation/state", "prompt"}
    assert sent["prompt"] == "put the bowl" and sent["observation/image"].shape == (224, 224, 3)
    state = obs["state"][1].double().numpy()
    x, y, z, w = state[10:14]
    w = np.clip(w, -1, 1)
    turn = np.zeros(3) if abs(w) == 1 else np.array([x, y, z]) * 2 * np.arccos(w) / np.sqrt(1 - w * w)
    np.testing.assert_allclose(sent["observation/state"], [*state[7:10], *turn, *state[14:16]], rtol=1e-5)
    teacher.close()


def test_five_actions_of_a_chunk_are_executed(policy, libero):
    """And each environment's end with its episode; labels are not part of that."""
    served = policy()
    teacher, obs = registry.make(f"remote:{served.url},action_mapping=libero", libero), observe(2)
    asked = len(served.seen)

    def acted():
        return teacher.act(obs, ["a", "b"])[:, 0].tolist(), len(served.seen) - asked

    assert teacher.has_memory and not teacher.is_stateful
    assert acted() == (pytest.approx([0.1, 0.1]), 2) and acted() == (pytest.approx([0.11, 0.11]), 2)
    teacher.reset(torch.tensor([True, False]))
    assert acted() == (pytest.approx([0.1, 0.12]), 3)
    teacher.label(obs, ["a", "b"])
    assert acted() == (pytest.approx([0.11, 0.13]), 5)
    session = teacher.new_session()
    connections = served.connections
    assert session.act(obs, ["a", "b"])[:, 0].tolist() == pytest.approx([0.1, 0.1]) and acted()[0] == pytest.approx(
        [0.12, 0.14]
    )
    assert connections == served.connections
    session.close(), teacher.close()


def test_clients_are_kept_apart_behind_our_server(policy, libero, serving):
    from rpd.teachers.transport.client import Client

    near = serving(registry.make(f"remote:{policy().url},action_mapping=libero", libero), libero)
    one, other = Client(near.url), Client(near.url)
    question = {key: value[0].numpy() for key, value in observe(1).items()} | {"prompt": "a"}
    got = [client.request(question)["actions"][0, 0] for client in (one, one, other, one)]
    assert got == pytest.approx([0.1, 0.11, 0.1, 0.12])
    one.close(), other.close()


def test_own_action_mapping_file(policy, toy_spec, tmp_path):
    """A policy that somebody else serves, with keys, units, a gripper and a state of its own, without a line of code."""
    (tmp_path / "mine.yaml").write_text(
        "action:\n  x: {unit: m, scale: 0.2}\n  y: env\n  g: {open: 0, closed: 1}\n"
        "server:\n  images:\n    cam: {camera: top, size: null}\n"
        "  state:\n    s: [b, -a]\n    again: [a]\n  prompt: task\n"
    )
    served = policy(dim=3, wants=("cam", "s", "again", "task"))
    name = f"remote:{served.url},action_mapping={tmp_path / 'mine.yaml'}"
    assert registry.camera_request(name) == CameraRequest(("top",), 224)
    teacher = registry.make(name, toy_spec())
    views = torch.randint(0, 256, (1, 9, 7, 3), dtype=torch.uint8)
    obs = TensorDict({"state": torch.tensor([[1.0, 2.0]]), "view.top": views}, [1])
    torch.testing.assert_close(teacher.label(obs, ["go"]).mean, torch.tensor([[0.2, 0.1, 1.0]]))
    sent = served.seen[-1]
    assert sent.keys() == {"cam", "s", "again", "task"} and sent["s"].tolist() == [2, -1] and sent["again"].tolist() == [1]
    assert (sent["cam"] == views[0].numpy()).all() and not teacher.has_memory
    with pytest.raises(
        ConfigError, match=r"needs camera 'top', but the observations have no image: add --env.teacher-cameras top"
    ):
        teacher.label(obs.exclude("view.top"), ["a"])
    teacher.close()


def test_options_replace_parts_of_it(policy, libero):
    served = policy(size=3, wants=("base", "wrist", "s", "task"))
    options = "images=top:base+hand:wrist,state=eef_pos:s,prompt=task,n_action_steps=2"
    name = f"remote:{served.url},action_mapping=libero,{options}"
    assert registry.camera_request(name).cameras == ("top", "hand")
    teacher = registry.make(name, libero)
    assert served.seen[-1].keys() == {"base", "wrist", "s", "task"} and teacher.chunks.steps == 2
    teacher.close()
    nothing = policy(wants=("prompt",))
    registry.make(f"remote:{nothing.url},action_mapping=libero,state=none", libero).close()
    assert "observation/state" not in nothing.seen[-1]


def test_droid(policy):
    """Joint velocities, 1 = 3 rad/s; gripper 1 = closed; joint angles and how far the gripper is closed."""
    names = (*(f"qpos.panda_joint{i}" for i in range(1, 8)), "qpos.panda_finger_joint1", "qpos.panda_finger_joint2", "goal.x")
    joints = tuple(f"joint_{i}" for i in range(1, 8))
    spec = EnvSpec(
        task="maniskill/toy", embodiment=Embodiment(name="panda", num_joints=7, descriptor={"opening": 0.08}),
        observations={"state": ObsSpec(shape=(10,), dtype="float32")}, state_names=names,
        action=ActionSpec(
            names=(*joints, "gripper"), units=("rad/s",) * 7 + ("open",), scale=(1.5,) * 7 + (1.0,),
            discrete=(False,) * 7 + (True,), frame="joint",
        ),
        control_hz=20, max_episode_steps=50, reward="sparse",
    )  # fmt: skip
    keys = ("observation/exterior_image_1_left", "observation/wrist_image_left")
    state_keys = ("observation/joint_position", "observation/gripper_position")
    served = policy(dim=8, wants=(*keys, *state_keys))
    teacher = registry.make(f"remote:{served.url},action_mapping=droid", spec)
    obs = observe(1, spec).rename_key_("view.agentview", "view.exterior").rename_key_("view.robot0_eye_in_hand", "view.wrist")
    obs["state"][0] = torch.tensor([*range(7), 0.03, 0.03, 9.0])
    mean = teacher.label(obs, ["a"]).mean
    torch.testing.assert_close(mean, torch.tensor([[0.2] * 7 + [1.0]]))  # 0.3 rad/s of 1.5; -1 is more than open
    sent = served.seen[-1]
    assert sent["observation/joint_position"].tolist() == [*range(7)]
    assert sent["observation/gripper_position"] == pytest.approx([0.25])
    teacher.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "the units of its actions are unknown: add action_mapping=, one of .*libero.* or a file"),
        (
            ",action_mapping=env",
            "its state is not declared .*action mapping env has no server.state.*: add e.g. state=eef_pos",
        ),
        (",action_mapping=liber", "unknown action mapping 'liber': did you mean libero"),
        (",action_mapping=none.yaml", "none.yaml: cannot be read"),
        (",action_mapping=libero,state=eef_poss", "unknown part of the state of libero/toy 'eef_poss': did you mean eef_pos"),
        (",action_mapping=libero,state=a++b", "state=a\\+\\+b: write part\\+part:key"),
        (",action_mapping=libero,images=front:a+wrist", "write camera:key, e.g. images=front:observation/image"),
        (",action_mapping=libero,images=:a", "write camera:key"),
        (",action_mapping=libero,n_action_steps=0", "n_action_steps=0: Input should be greater than or equal to 1"),
        (
            ",action_mapping=libero,n_action_steps=11",
            "answers with chunks of 10 actions, and 11 are to be executed: add n_action_steps=10",
        ),
        (
            ",action_mapping=libero,state=robot0_joint_pos",
            "cannot read an observation of libero/toy: .* answers: KeyError: '8 numbers'",
        ),
        (",action_mapping=droid", "action dimensions differ: teacher has joint_1|cannot read an observation"),
    ],
)
def test_unsupported_server_is_refused(options, message, policy, libero):
    with pytest.raises((ConfigError, SpecMismatch), match=message) as error:
        registry.make(f"remote:{policy().url},retries=0{options}", libero)
    assert "\n" not in str(error.value)


def test_another_number_of_dimensions(policy, libero):
    with pytest.raises(SpecMismatch, match="its actions have 8 dimensions, the action mapping names 7: x y z"):
        registry.make(f"remote:{policy(dim=8).url},action_mapping=libero", libero)


def test_quantity_that_the_environment_does_not_state(policy, toy_spec):
    with pytest.raises(SpecMismatch, match="toy/Toy does not provide eef_pos; its state has a, b"):
        registry.make(f"remote:{policy().url},action_mapping=libero", toy_spec())


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 7)), np.zeros((2, 7), np.int64), [[0.0] * 7]])
def test_answers_without_actions(bad, policy, libero):
    teacher = registry.make(f"remote:{policy().url},action_mapping=libero", libero)
    teacher.client.request = lambda message: {"actions": bad}
    with pytest.raises(ServerLost, match="an answer without actions"):
        teacher.label(observe(1), ["a"])


def test_nan_is_not_hidden(policy, libero):
    """Whoever reads the label refuses it: a clip would have made a number of Inf."""
    teacher = registry.make(f"remote:{policy().url},action_mapping=libero", libero)
    teacher.client.request = lambda message: {"actions": np.full((10, 7), np.inf)}
    assert teacher.label(observe(1), ["a"]).mean.isnan().all() and teacher.act(observe(1), ["a"]).isnan().all()


def test_show(policy, serving, capsys, monkeypatch):
    """Both kinds of server: what is sent, what is not, and both sides of each action."""
    monkeypatch.setenv("COLUMNS", "220")
    images = "images=front:observation/image+wrist:observation/wrist_image"
    name = f"remote:{policy().url},retries=0,action_mapping=libero,{images}"
    assert main(["teacher", "show", name, "--task", "tabletop/PickCube"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "openpi's protocol", "q (7), dq (7), tcp_lag (3), touch (2), object (5), goal (6)", "executes 5 actions of a chunk",
        "gripper_qpos (gripper)", "8 numbers, not normalized", "uint8 [224, 224, 3]", "-1 opens, 0 opens, 1 closes",
        "-1 closes, 0 opens, 1 opens", "1 = 0.05 m", "-0.03, 0, 0.03 m",
    ):  # fmt: skip
        assert words in out, words
    for more, words in ((",n_action_steps=50", "chunks of 10 actions"), (",state=eef_pos", "KeyError: '8 numbers'")):
        assert main(["teacher", "show", name + more, "--task", "tabletop/PickCube"]) == 2
        shown = capsys.readouterr()
        assert words in shown.err and shown.err.count("\n") == 1 and "-1 opens" in shown.out
    assert main(["teacher", "show", f"remote:{policy().url}", "--task", "tabletop/PickCube"]) == 2
    assert "the units of its actions are unknown" in capsys.readouterr().err


def test_show_our_own(serving, capsys, monkeypatch):
    from rpd.envs.config import EnvConfig
    from rpd.envs.registry import make

    monkeypatch.setenv("COLUMNS", "220")
    env = make("tabletop/PickCube", EnvConfig(num_envs=1), num_threads=1)
    env.close()
    name = f"remote:{serving(registry.make('scripted:noisy', env.spec), env.spec, name='scripted:noisy').url}"
    assert main(["teacher", "show", name, "--task", "tabletop/PickCube"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "serves scripted:noisy",
        "privileged",
        "the simulator's true poses",
        "object (5)",
        "-1 closes, 0 opens, 1 opens",
    ):
        assert words in out, words
    assert main(["teacher", "show", name, "--task", "tabletop/PickCube", "--robot", "ur5e"]) == 2
    assert "robot differ: policy (tabletop/PickCube) has panda" in capsys.readouterr().err
    assert main(["teacher", "show", f"{name},action_mapping=libero", "--task", "tabletop/PickCube"]) == 2
    assert "action_mapping only apply to openpi's servers" in capsys.readouterr().err


def test_documented_action_mapping_is_valid(policy, libero):
    """The example in docs/serving.md is an action mapping."""
    import re

    from rpd.teachers.vla.action_mapping import parse_action_mapping

    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert parse_action_mapping(example.encode(), "docs").server.n_action_steps == 5


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            "server: {images: {s: {camera: top}}, state: {s: [a]}}",
            "server: key 's' is given to two of images, state and prompt",
        ),
        ("server: {images: {}, state: {prompt: [a]}}", "server: key 'prompt' is given to two"),
        ("server: {images: {prompt: {camera: top}}, state: {}}", "server: key 'prompt' is given to two"),
        ("server: {images: {}, state: {'': [a]}}", "server: a key of the observation is empty"),
        ("server: {images: {}, state: {s: []}}", "server: state 's' has no parts"),
        ("server: {images: {}, state: {}}\ncrop: 0.9", "has crop: 0.9, which is set by the server and would be ignored here"),
        ("server: {images: {}, state: {}}\nunnorm_key: x", "has unnorm_key: x, which is set by the server"),
        (
            "server: {images: {}, state: {s: [a]}}\nserver: {images: {}, state: {}}",
            "'server' is there twice",
        ),
    ],
)
def test_unsupported_action_mapping_is_refused(part, message, policy, toy_spec, tmp_path):
    (tmp_path / "b.yaml").write_text(f"action: env\n{part}\n")
    with pytest.raises(ConfigError, match=message):
        registry.make(f"remote:{policy(dim=3, wants=()).url},retries=0,action_mapping={tmp_path / 'b.yaml'}", toy_spec())


def test_options_that_name_a_key_twice(policy, libero):
    with pytest.raises(ConfigError, match="key 'prompt' is given to two of images, state and prompt"):
        registry.make(f"remote:{policy().url},retries=0,action_mapping=libero,state=eef_pos:prompt", libero)


def test_camera_of_a_action_mapping_without_images(policy, toy_spec, tmp_path):
    (tmp_path / "b.yaml").write_text("action: env\ncamera: top\n")
    assert registry.camera_request(f"remote:{policy().url},action_mapping={tmp_path / 'b.yaml'},state=none") == CameraRequest(
        ("top",), 224
    )
