import csv
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64encode
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from rpd.cli import main
from rpd.envs.errors import ConfigError
from rpd.evaluation.evaluate import EpisodeRecord, EvalResult, save
from rpd.evaluation.video import VideoWriter
from rpd.reporting import page, run_report
from rpd.reporting.charts import Chart, Series, legend
from rpd.reporting.curves import band, column, in_order, labels
from rpd.reporting.figure import svg
from rpd.reporting.interactive import plotly_figure
from rpd.reporting.pooled import pooled
from rpd.reporting.run_charts import success_charts

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def short_library(monkeypatch):
    """A few characters in place of Plotly's megabytes, where its content does not matter."""
    monkeypatch.setattr(page, "_plotly", lambda: "/* Plotly */")


class Checker(HTMLParser):
    """Every tag is closed, nothing is loaded from elsewhere, and no script runs but those of the content security policy."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.figures, self.policy = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        assert tag not in ("link", "img", "iframe") and not any(name.startswith("on") for name in attrs)
        assert attrs.get("src", "data:").startswith("data:")
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]
            assert "default-src 'none'" in self.policy and "unsafe-eval" not in self.policy
        if tag not in self.VOID:
            self.open.append((tag, attrs))

    def handle_data(self, data):
        if not self.open or self.open[-1][0] != "script":
            return
        if self.open[-1][1] == {"type": "application/json"}:
            self.figures.append(json.loads(data))
        else:
            assert f"'sha256-{b64encode(hashlib.sha256(data.encode()).digest()).decode()}'" in self.policy

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag


def make_run(path, mode="rpd", seed=0, task="tabletop/PickCube", finished=True):
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(
        f"task: {task}\nmode: {mode}\nteacher: 'scripted:noise=<0.5>'\nseed: {seed}\nenv: {{obs: state}}\n...\n"
    )
    lines = []
    for i in range(1, 5):
        line = {"step": 100 * i, "rollout/success": 0.2 * i, "loss/policy": -0.1 * i, "time/env": 1.0, "time/update": 3.0}
        lines.append(line | ({} if mode == "ppo" else {"teacher/queries": 100 * i}))
        if i % 2 == 0:
            lines.append(
                {
                    "step": 100 * i,
                    "eval/success_once": 0.2 * i,
                    "eval/success_once_lo": 0.1 * i,
                    "eval/success_once_hi": 0.25 * i,
                }
            )
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (path / "result.json").write_text(json.dumps(make_result(mode, seed, task)))
    return path


def make_result(mode="rpd", seed=0, task="tabletop/PickCube"):
    def summary(k):
        return {"n": 100, "successes": k, "rate": k / 100, "interval": [k / 100 - 0.05, k / 100 + 0.05], "mean_return": -2.5}

    teacher = None if mode == "ppo" else "scripted:noise=<0.5>"
    return {
        "task": task, "algorithm": mode, "teacher": teacher, "seed": seed, "steps": 400, "wall_s": 125.4,
        "teacher_queries": 0 if mode == "ppo" else 400, "student": summary(93), "teacher_eval": teacher and summary(31),
        "paired": teacher and {"diff": 0.62, "lo": 0.5, "hi": 0.7},
        "curve": [[200, 0.4 + seed / 10, 40, 100], [400, 0.8, 80, 100]],
    }  # fmt: skip


def test_report_of_a_run_shows_the_numbers_and_carries_its_videos(tmp_path):
    run = make_run(tmp_path / "runs" / "x")
    episodes = tuple(EpisodeRecord(i, i != 1, i != 1, -2.0, 30) for i in range(3))
    save(EvalResult("tabletop/PickCube", "student", episodes), run / "eval" / "final")
    with VideoWriter(run / "eval" / "final" / "grid.mp4", 20) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
    path = run_report.write(run)
    assert path == run / "report.html"
    text = path.read_text()
    tags = Checker(text).tags
    for shown in ("93/100 (88–98 %)", "31/100", "+62", "points (+50 to +70), paired by seed", ">400<", "0:02:05"):
        assert shown in text, shown
    assert "noise=&lt;0.5&gt;" in text and "noise=<0.5>" not in text
    assert tags.count("video") == 1 and text.count('class="ok"') == 2
    assert "Success, deterministic policy" in text and "KL(old" not in text  # what was not logged is not drawn
    assert "environment 25%" in text and "update 75%" in text
    assert "http://" not in text and "https://" not in text


def test_report_of_an_unfinished_run_and_of_an_empty_one(tmp_path):
    Checker(run_report.write(make_run(tmp_path / "x", finished=False)).read_text())
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "config.yaml").write_text("task: a/B\n")
    Checker(run_report.write(tmp_path / "y").read_text())
    with pytest.raises(ConfigError, match="is not a run"):
        run_report.write(tmp_path / "nothing")
    (tmp_path / "y" / "result.json").write_text("{")
    with pytest.raises(ConfigError, match=r"result\.json: not JSON"):
        run_report.write(tmp_path / "y")


def test_runs_are_grouped_by_configuration(tmp_path):
    runs = [make_run(tmp_path / f"{mode}{seed}", mode, seed) for mode in ("ppo", "rpd") for seed in (0, 1)]
    path = run_report.write(runs)
    assert path == tmp_path / "report.html"
    text = path.read_text()
    Checker(text)
    rows = re.findall(r'<tr class="(\w*)"><td class="name">(.*?)</td><td class=n>(\d*)</td>', text)
    assert rows == [
        ("", "RPD", "0"), ("", "RPD", "1"), ("", "PPO", "0"), ("", "PPO", "1"),
        ("teacher", "teacher scripted:noise=&lt;0.5&gt;", ""),
    ]  # fmt: skip
    assert 'class="legend"' in text


def test_report_of_an_evaluation(tmp_path):
    save(EvalResult("tabletop/Reach", "zero", (EpisodeRecord(3, False, False, -7.25, 50),)), tmp_path)
    text = run_report.write_evaluation(tmp_path).read_text()
    Checker(text)
    assert "0/1 (0–79 %)" in text and "-7.25" in text


def test_figure_is_one_svg_without_scripts():
    results = [make_result(m, s, t) for t in ("a/X", "a/Y") for m in ("rpd", "ppo") for s in (0, 1)]
    charts = success_charts(results)
    assert [[s.label for s in c.series] for c in charts] == [["RPD", "PPO", "teacher"]] * 2
    assert all(s.low is not None for c in charts for s in c.series[:2])
    text = svg(charts)
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg" and "<script" not in text
    texts = ["".join(e.itertext()) for e in root.iter(f"{SVG}text")]
    assert {"RPD", "PPO", "teacher", "a/X", "a/Y", "100%"} <= set(texts)
    assert svg(charts) == text, "the same file from the same numbers"


def test_several_teachers_have_the_colours_of_their_pupils():
    results = [make_result(), make_result("ppo"), make_result(seed=1) | {"teacher": "b"}]
    for r, label in zip(results, ("RPD, noisy teacher", "PPO", "RPD, biased teacher"), strict=True):
        r["label"] = label
    (chart,) = success_charts(results)
    students = ["RPD, biased teacher", "RPD, noisy teacher"]  # RPD comes first, in alphabetical order
    lines = {s.label: s for s in chart.series}
    assert list(lines) == [*students, "PPO", *(f"teacher of {name}" for name in students)]
    for name in students:
        teacher = lines[f"teacher of {name}"]
        assert teacher.dashed and teacher.color == lines[name].color != lines["PPO"].color


def test_labels_show_differing_options():
    assert labels(
        [{"algorithm": "rpd", "teacher": "a"}, {"algorithm": "rpd", "teacher": "b"}, {"algorithm": "ppo", "teacher": None}]
    ) == [
        "RPD · a",
        "RPD · b",
        "PPO",
    ]
    assert in_order(["PPO", "DAgger", "RPD · b", "RPD · a", "PPO"]) == ["RPD · a", "RPD · b", "PPO", "DAgger"]


def test_band_is_mean_and_extremes_where_all_seeds_have_data():
    line = band("x", [([0, 10, 20], [0, 1, 2]), ([0, 20], [0, 4]), ([], [])], color=1)
    assert (line.x, line.y, line.low, line.high) == ([0, 10, 20], [0, 1.5, 3], [0, 1, 2], [0, 2, 4])
    assert band("x", [([5], [1])], 0).low is None
    assert band("x", [], 0).x == []
    many = band("x", [(list(range(1000)), [1.0] * 1000)], 0, points=100)
    assert len(many.x) == 100 and set(many.y) == {1.0}


def test_band_keeps_points_with_equal_x():
    """Evaluations after the teacher's last query: a vertical line, and not a slope from the one before it."""
    one = ([10, 20, 20, 20], [0.0, 0.2, 0.8, 1.0])
    line = band("x", [one], 0)
    assert line.y == one[1] and line.x == pytest.approx(one[0])
    both = band("x", [one, ([10, 20, 20, 30], [0.0, 0.4, 0.6, 1.0])], 0)
    assert both.x == pytest.approx([10, 20, 20, 20]) and both.y[:3] == pytest.approx([0.0, 0.3, 0.7])


def test_column_takes_the_other_axis_from_an_earlier_line():
    metrics = [{"step": 1, "teacher/queries": 7}, {"step": 2, "eval/success_once": 0.5}, {"step": 3}]
    assert column(metrics, "eval/success_once", by="teacher/queries") == ([7], [0.5])
    assert column(metrics, "eval/success_once") == ([2], [0.5])


def test_plotly_figure_has_the_values_and_their_bands():
    import plotly.graph_objects as go

    chart = Chart(
        "t", [Series("a", [0, 10], [0.25, 1], [0, 0.5], [0.5, 1]), Series("b", [0, 10], [1, 1], dashed=True)], percent=True
    )
    figure = go.Figure(plotly_figure(chart))  # raises if Plotly has no such property
    edges, a, b = figure.data
    assert (a.name, list(a.x), list(a.y)) == ("a", [0, 10], [0.25, 1]) and [list(e) for e in a.customdata] == [
        [0, 0.5],
        [0.5, 1],
    ]
    assert list(edges.x) == [0, 10, 10, 0] and list(edges.y) == [0.5, 1, 0.5, 0] and edges.hoverinfo == "skip"
    assert "customdata[0]" in a.hovertemplate and b.line.dash == "dash"
    assert go.Figure(plotly_figure(Chart("l", [Series("a", [0.1, 10], [1, 2])], log_x=True))).layout.xaxis.type == "log"
    assert plotly_figure(Chart("nothing", []))["data"] == []


def test_legend_has_each_label_once_in_the_order_of_appearance():
    one, two = Series("a", [1], [1]), Series("b", [1], [1])
    assert legend([Chart("", [one]), Chart("", [two, one]), Chart("", [Series("empty", [], [])])]) == [one, two]


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


def places(value, path=()):
    """Every place of a JSON value that holds something, as keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, (*path, i))
    else:
        yield path


def planted(value, path):
    if not path:
        return HOSTILE
    key, *rest = path
    inner = planted(value[key], rest)
    return {**value, key: inner} if isinstance(value, dict) else [*value[:key], inner, *value[key + 1 :]]


def evaluated(run):
    episodes = tuple(EpisodeRecord(i, i != 1, i != 1, -2.0, 30) for i in range(3))
    save(EvalResult("tabletop/PickCube", "student", episodes), run / "eval" / "final")
    save(EvalResult("tabletop/PickCube", "scripted:noise=<0.5>", episodes), run / "eval" / "teacher")
    for name in ("grid", "side_by_side"):
        with VideoWriter(run / "eval" / "final" / f"{name}.mp4", 20) as video:
            video.write(np.zeros((32, 32, 3), np.uint8))
    (run / "eval" / "final" / "side_by_side.json").write_text('{"left": "a", "right": "b"}')
    (run / "env.json").write_text('{"time": "t", "versions": {"torch": "2"}, "machine": {"cpu": "x"}}')
    return run


@pytest.mark.slow
def test_run_contents_are_escaped(tmp_path):
    """A text with a script in it, in every place of every file that a report reads: shown as text, or refused by name."""
    run, tried, shown = evaluated(make_run(tmp_path / "x")), 0, 0
    (run / "config.yaml").write_text("task: a/B\nmode: rpd\nteacher: t\nseed: 1\nenv: {obs: state, robot: panda}\n...\n")
    files = ("result.json", "eval/final/eval.json", "eval/final/side_by_side.json", "env.json", "eval/final/episodes.jsonl",
             "metrics.jsonl", "config.yaml")  # fmt: skip
    result = make_result() | {"base": "b", "base_eval": make_result()["student"], "base_paired": make_result()["paired"]}
    (run / "result.json").write_text(json.dumps(result | {"robot": "panda"}))
    for name in files:
        path = run / name
        whole = path.read_text()
        head, *rest = whole.splitlines() if name.endswith(".jsonl") else [whole]
        value = yaml.safe_load(head) if name == "config.yaml" else json.loads(head)
        for place in places(value):
            lines = [json.dumps(planted(value, place)), *rest]
            path.write_text("\n".join(lines) + {".jsonl": "\n", ".yaml": "\n...\n"}.get(path.suffix, ""))
            for write in (run_report.write, lambda run: run_report.write_evaluation(run / "eval" / "final")):
                tried += 1
                try:
                    text = write(run).read_text()
                except ConfigError as error:
                    assert "\n" not in str(error) and path.name in str(error), (name, place, error)
                    continue
                Checker(text)
                assert "<script>alert" not in text and "<img" not in text, (name, place)
                shown += "&lt;script&gt;" in text
        path.write_text(whole)
    assert tried > 150 and shown > 20


def test_names_of_files_and_folders_become_no_markup(tmp_path):
    run = evaluated(make_run(tmp_path / "<img src=x onerror=alert(1)>"))
    text = run_report.write(run).read_text()
    Checker(text)
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_texts_of_charts_are_no_markup():
    """Neither in a page, nor for Plotly, which reads tags in labels, nor for matplotlib, which reads formulas."""
    chart = Chart(HOSTILE, [Series(HOSTILE, [0, 1], [0, 1]), Series("<b>$x_", [0, 1], [0, 1])], x_label=HOSTILE)
    values = {"title": HOSTILE, "policy": HOSTILE, "columns": [HOSTILE], "rows": [[HOSTILE]], "mark": ""}
    text = page.render("samplers.html", charts=[chart], details=[page.json_details(HOSTILE, {HOSTILE: HOSTILE})], **values)
    checked = Checker(text)
    assert checked.tags.count("script") == 3 and len(checked.figures) == 1
    (figure,) = checked.figures
    shown = [
        figure["layout"]["title"]["text"],
        figure["layout"]["xaxis"]["title"]["text"],
        *(t["name"] for t in figure["data"]),
    ]
    assert not [text for text in shown if "<" in text]
    drawn = svg([chart])
    texts = ["".join(e.itertext()) for e in ElementTree.fromstring(drawn).iter(f"{SVG}text")]
    assert HOSTILE in texts and "<b>$x_" in texts and "<script" not in drawn


def test_numbers_of_the_page_are_the_numbers_of_the_files(tmp_path):
    runs = [make_run(tmp_path / f"{mode}{seed}", mode, seed) for mode in ("ppo", "rpd") for seed in (0, 1, 2)]
    figures = Checker(run_report.write(runs).read_text()).figures
    (success,) = [f for f in figures if f["layout"]["title"]["text"] == "Success, deterministic policy"]
    lines = {t["name"]: t for t in success["data"] if "name" in t}
    assert list(lines) == ["RPD", "PPO", "teacher"]
    assert lines["RPD"]["x"] == [200, 400] and lines["RPD"]["y"] == pytest.approx([0.4, 0.8])
    assert lines["teacher"]["y"] == [0.31, 0.31]


def test_seeds_are_pooled():
    rates = {"rpd": (90, 80, 70, 10), "ppo": (50,)}
    results = []
    for mode, values in rates.items():
        for seed, k in enumerate(values):
            result = make_result(mode, seed)
            results.append(result | {"student": result["student"] | {"successes": k, "rate": k / 100}})
    rpd, ppo = pooled([*results, {"task": "tabletop/PickCube"}])
    assert (rpd.method, rpd.seeds, rpd.successes, rpd.n) == ("RPD", 4, 250, 400)
    assert (rpd.mean, rpd.lowest, rpd.highest) == (pytest.approx(0.625), 0.1, 0.9)
    assert rpd.iqm == pytest.approx(0.75), "the mean of 80 and 70"
    low, high = rpd.iqm_interval
    assert 0.1 <= low < 0.75 < high <= 0.9
    assert (ppo.method, ppo.iqm, ppo.iqm_interval, ppo.teacher_queries) == ("PPO", 0.5, None, 0)


def test_several_tasks_are_pooled_for_methods_that_have_all():
    results = [make_result(m, s, t) for t in ("a/X", "a/Y") for m in ("rpd", "ppo") for s in (0, 1)]
    rows = pooled(results[:-2])  # no PPO in Y
    assert [(r.task, r.method, r.seeds) for r in rows] == [
        ("a/X", "RPD", 2), ("a/X", "PPO", 2), ("a/Y", "RPD", 2), ("all", "RPD", 4),
    ]  # fmt: skip


def test_runs_of_other_options_are_no_seeds_of_one_method(tmp_path):
    runs = [make_run(tmp_path / f"{rate}-{seed}", seed=seed) for rate in (0.1, 0.2) for seed in (0, 1)]
    for run in runs:
        rate, seed = run.name.split("-")
        options = f"ppo: {{learning_rate: {rate}}}\neval_freq: {seed}\n..."
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("...", options))
    named = labels([run_report.read_run(run).summary for run in runs])
    assert named == ["RPD · ppo.learning_rate 0.1"] * 2 + ["RPD · ppo.learning_rate 0.2"] * 2


def test_figure_and_table_for_a_paper(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for mode in ("ppo", "rpd"):
        for seed in (0, 1):
            make_run(tmp_path / "runs" / f"{mode}{seed}", mode, seed, finished=(mode, seed) != ("ppo", 1))
    assert main.main(["report", "runs", "--figure", "paper/curves.pdf", "--csv", "paper/table.csv"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "runs" / "report.html"), "paper/curves.pdf", "paper/table.csv"]
    assert (tmp_path / "paper" / "curves.pdf").read_bytes().startswith(b"%PDF")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "paper" / "table.csv").read_text())))
    assert [(r["method"], r["seeds"], r["successes"], r["n"], r["iqm"]) for r in rows] == [
        ("RPD", "2", "186", "200", "0.93"), ("PPO", "1", "93", "100", "0.93"),
    ]  # fmt: skip
    assert rows[1]["iqm_low"] == "" and float(rows[0]["low"]) == pytest.approx(0.886, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--figure curves.gif", "has to end in .pdf, .svg or .png"),
        ("--csv result.json", "has to end in .csv"),
        ("--csv table.csv", "no table to write: no run is complete"),
        ("--figure curves.pdf", "no learning curve to draw: x: no evaluation yet"),
    ],
)
def test_bad_requests_for_papers_write_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "x", finished=False)
    (tmp_path / "x" / "metrics.jsonl").write_text('{"step": 1, "rollout/success": 0.5}\n')
    before = sorted(tmp_path.rglob("*"))
    assert main.main(["report", "x", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and sorted(tmp_path.rglob("*")) == before


def test_page_carries_plotly(tmp_path, monkeypatch):
    monkeypatch.undo()
    text = run_report.write(make_run(tmp_path / "x")).read_text()
    assert "Plotly" in text and text.count("</script>") == 2 + text.count('type="application/json"')


def test_video_caption_names_policies(tmp_path):
    run = evaluated(make_run(tmp_path / "x"))
    assert "a (left) and b (right) on the same seeds" in run_report.write(run).read_text()
    (run / "eval" / "final" / "side_by_side.json").unlink()
    text = run_report.write(run).read_text()
    assert "one policy (left) and another (right)" in text and "teacher and student" not in text


@pytest.mark.parametrize(("diff", "green"), [(0.62, True), (0.0, True), (-0.05, False)])
def test_only_a_student_that_is_not_below_its_teacher_is_green(tmp_path, diff, green):
    run = make_run(tmp_path / "x")
    (run / "result.json").write_text(json.dumps(make_result() | {"paired": {"diff": diff, "lo": diff - 0.1, "hi": diff + 0.1}}))
    assert ('<div class="card main"><div class="name">Student' in run_report.write(run).read_text()) == green
