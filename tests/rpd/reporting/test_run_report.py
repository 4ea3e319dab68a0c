import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from markupsafe import Markup

from rpd.envs.errors import ConfigError
from rpd.evaluation.evaluate import EpisodeRecord, EvalResult, save
from rpd.evaluation.video import VideoWriter
from rpd.reporting import html as page
from rpd.reporting import run_report
from rpd.reporting.charts import Chart, Series, figure, legend, line_chart, short, stacked_bar, ticks
from rpd.reporting.curves import band, column, in_order, labels


class Checker(HTMLParser):
    """Every tag is closed, and nothing is loaded from elsewhere."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert tag not in ("script", "link", "img", "iframe")
        assert dict(attrs).get("src", "data:").startswith("data:")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


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
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text


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
    text = run_report.figure_svg(results)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "<script" not in text and "prefers-color-scheme: dark" in text
    bands = [e for e in root.iter() if "band" in e.get("class", "")]
    assert len(bands) == 4  # two kinds of run in two charts
    texts = ["".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:3] == ["RPD", "PPO", "teacher"] and "a/X" in texts and "a/Y" in texts


def test_several_teachers_have_the_colours_of_their_pupils():
    results = [make_result(), make_result("ppo"), make_result(seed=1) | {"teacher": "b"}]
    for r, label in zip(results, ("RPD, noisy teacher", "PPO", "RPD, biased teacher"), strict=True):
        r["label"] = label
    root = ElementTree.fromstring(run_report.figure_svg(results))
    dashed = [e.get("class") for e in root.iter("{http://www.w3.org/2000/svg}polyline") if "dashed" in e.get("class")]
    assert dashed == ["line s0 dashed", "line s1 dashed"]  # RPD comes first, in alphabetical order
    texts = ["".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:3] == ["RPD, biased teacher", "RPD, noisy teacher", "PPO"]
    assert texts[3:5] == ["teacher of RPD, biased teacher", "teacher of RPD, noisy teacher"]


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


def test_axes():
    assert ticks(0, 1) == [0, 0.5, 1.0]
    assert ticks(0, 500_000) == [0, 200_000, 400_000, 600_000]
    assert ticks(-3.2, 4.1) == [-4, -2, 0, 2, 4, 6]
    assert ticks(2, 2) == [1.8, 1.9, 2.0, 2.1, 2.2]
    assert ticks(0, 0)[0] == -0.5
    assert [short(v) for v in (0, -0.25, 1500, 200_000, 1_500_000)] == ["0", "-0.25", "1.5k", "200k", "1.5M"]


def test_charts_draw_values_where_they_belong():
    svg = ElementTree.fromstring(line_chart(Chart("t", [Series("a", [0, 10], [0, 1])], percent=True)))
    points = next(e for e in svg.iter("polyline")).get("points")
    assert points == "50.0,198.0 360.0,34.0"  # the corners of the plot area
    ElementTree.fromstring(line_chart(Chart("one point", [Series("a<b", [5], [3])])))
    ElementTree.fromstring(line_chart(Chart("nothing", [])))
    assert stacked_bar([("a", 0.0)]) == ""
    assert [e.get("width") for e in ElementTree.fromstring(stacked_bar([("a", 1.0), ("b", 3.0)])).iter("rect")][::2] == [
        "188.0",
        "568.0",
    ]
    without = stacked_bar([("a", 1.0), ("b", 0.0), ("c", 1.0)])
    assert "b 0%" not in without and 'class="f2"' in without  # and the colours of the others stay


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
                assert "script" not in Checker(text).tags and "<img" not in text, (name, place)
                shown += "&lt;script&gt;" in text
        path.write_text(whole)
    assert tried > 150 and shown > 20


def test_names_of_files_and_folders_become_no_markup(tmp_path):
    run = evaluated(make_run(tmp_path / "<img src=x onerror=alert(1)>"))
    text = run_report.write(run).read_text()
    Checker(text)
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_page_components_escape_html(tmp_path):
    result = {"interval": [0.1, 0.2], "rate": 0.15, "n": 3, "successes": 1}
    series = Series(HOSTILE, [0, 1], [0, 1])
    pieces = [
        page.document(HOSTILE, HOSTILE, HOSTILE), page.section(HOSTILE, HOSTILE), page.panel(HOSTILE),
        page.card_row([(HOSTILE,) * 4]),
        page.table([HOSTILE], [[HOSTILE]]), page.details(HOSTILE, HOSTILE), page.json_details(HOSTILE, {HOSTILE: HOSTILE}),
        page.whisker(result), line_chart(Chart(HOSTILE, [series], x_label=HOSTILE)), figure([Chart(HOSTILE, [series])], 1),
        legend([series]), stacked_bar([(HOSTILE, 1.0)]), page.each("<td>{}</td>", [HOSTILE]),
    ]  # fmt: skip
    for piece in pieces:
        assert isinstance(piece, Markup) and "<script" not in piece and "<img" not in piece


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
