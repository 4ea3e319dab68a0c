"""Stand-ins for SDKs, made from their recorded signatures: what an SDK does not offer, or takes otherwise, fails here too."""

import inspect
import json
import sys
import types
from pathlib import Path

RECORDS = Path(__file__).parent / "sdk"


def offers(driver):
    return json.loads((RECORDS / f"{driver}.json").read_text())["offers"]


class Standin:
    """Modules in ``sys.modules`` whose classes have the recorded members, and do what `behaviour` says.

    Args:
        recorded: see `offers`.
        behaviour: by ``Class.member``, a function of the instance and the call's arguments; else a call returns None.

    Attributes:
        calls: every call, as (``Class.member``, arguments by name).
    """

    def __init__(self, recorded, behaviour):
        self.calls, self.behaviour, self.classes = [], behaviour, {}
        self.modules = {}
        for path, members in recorded.items():
            module, _, name = path.rpartition(".")
            thing = self.function(name, members) if isinstance(members, str) else self.make(name, members)
            self.classes[name] = thing
            setattr(self.module(module), name, thing)

    def module(self, path):
        for part in [path[:i] for i, c in enumerate(path + ".") if c == "."]:
            if part not in self.modules:
                self.modules[part] = types.ModuleType(part)
                above, _, name = part.rpartition(".")
                if above:
                    setattr(self.modules[above], name, self.modules[part])
        return self.modules[path]

    def make(self, name, members):
        if name.endswith("Exception"):
            return type(name, (Exception,), {})
        body = {}
        for member, signature in members.items():
            full = f"{name}.{member}"
            if signature == "property":
                body[member] = property(lambda this, full=full: self.behaviour[full](this))
            elif signature == "attribute":
                body[member] = full
            else:
                body[member] = self.function(full, signature)
        return type(name, (), body)

    def function(self, full, signature):
        namespace = {}
        exec(f"def shape{signature}: pass", namespace)
        shape = inspect.signature(namespace["shape"])

        def call(*args, **kwargs):
            bound = shape.bind(*args, **kwargs)  # TypeError where the SDK takes its arguments otherwise
            given = {k: v for k, v in bound.arguments.items() if k != "self"}
            self.calls.append((full, given))
            return self.behaviour[full](*args, **kwargs) if full in self.behaviour else None

        return call

    def install(self, monkeypatch):
        for name, module in self.modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def called(self, *names):
        return [given for name, given in self.calls if name in names]
