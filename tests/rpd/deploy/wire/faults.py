"""Time from a fault on the wire to the stop of a simulated arm, with `rpd deploy` at a terminal and a shipped robot file."""

import os
import signal
import time

import numpy as np
import yaml

from rpd.datasets.deploy_log import format as record
from rpd.deploy import config as configs
from tests.rpd.deploy.conftest import Server
from tests.rpd.deploy.wire import deployed
from tests.rpd.deploy.wire.command import Command
from tests.rpd.deploy.wire.process import Fake

TASK = "tabletop/Reach"


def measure(names, folder):
    """One deployment per fault; returns their numbers."""
    fake, server, rows = Fake("fake_ur", TASK, "ur5e"), Server(), []
    shipped = configs.load("ur5e").model_copy(update={"ramp": 0.0, "cameras": {}})
    (folder / "ur5e.yaml").write_text(yaml.safe_dump(shipped.model_dump(mode="json")))
    try:
        for name in names:
            rows.append(one(name, fake, server.url, folder))
            print(rows[-1], flush=True)
    finally:
        fake.close()
        server.server.shutdown()
    return rows


def one(name, fake, policy, folder):
    fake.ask("begin")
    out = folder / f"{name}.rpdlog"
    words = (
        "deploy",
        policy,
        "--robot",
        "ur5e.yaml",
        "--host",
        fake.host,
        "--task",
        TASK,
        "--seconds",
        "300",
        "--out",
        str(out),
    )
    command = Command(*words, cwd=folder)
    try:
        command.until(lambda: moving(fake.ask("state")))
        when = fake.ask("fault", name=name)
        if name == "crash":
            os.kill(command.child("device_process"), signal.SIGSEGV)
        if name == "kill -9":
            command.kill()
        code = command.wait()
    finally:
        command.close()
    while not (state := fake.ask("state"))["stops"]:
        time.sleep(0.02)
    after = deployed.settled(fake)
    end = [frame for frame in record.read(out) if frame["kind"] == "end"]
    return {
        "fault": name, "stopped_after_ms": round(1000 * (min(t for _, t in state["stops"]) - when), 1), "exit_code": code,
        "stops": [how for how, _ in state["stops"]], "drift_rad": after["drift"],
        "reason": end[0]["reason"] if end else None, "stop_failure": end[0]["stop_failure"] if end else None,
        "shown": bool(end) and end[0]["reason"] in command.shown,
    }  # fmt: skip


def moving(state):
    return state["commands"] > 200 and np.abs(state["velocities"]).max() > 0.1
