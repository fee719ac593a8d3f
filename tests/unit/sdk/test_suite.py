"""Where the evaluations of a suite are kept, and what moving names mean."""

from pathlib import Path

import pytest
from overworld.errors import EvaluationError
from overworld.evaluation.suite import Suite, evaluations_in


def test_each_evaluation_has_a_folder_of_its_own(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    names = ["mine@20", "Qwen/Qwen2-VL-2B", "..", ".", "a b", "a\nb", "über", "a%2Fb", "/etc/passwd", "random"]
    folders = [suite.folder("gym_cards/NumberLine", name) for name in names]
    assert len(set(folders)) == len(names)
    assert {folder.parent for folder in folders} == {tmp_path / "gym_cards-NumberLine"}
    assert [folder.name for folder in folders[:3]] == ["mine@20", "Qwen-Qwen2-VL-2B", "%2E."]
    with pytest.raises(EvaluationError, match=r"Qwen-Qwen2/VL-2B in .* would share"):
        suite.folder("gym_cards/NumberLine", "Qwen-Qwen2/VL-2B")


def test_a_moving_name_is_pinned_until_the_suite_is_finished(tmp_path: Path) -> None:
    assert Suite(tmp_path).pinned("mine@latest", lambda: ["mine@20"]) == ["mine@20"]
    suite = Suite(tmp_path)
    assert suite.pinned("mine@latest", lambda: ["mine@40"]) == ["mine@20"]
    assert suite.pinned("base", lambda: ["base"]) == ["base"]
    suite.finish()
    assert Suite(tmp_path).pinned("mine@latest", lambda: ["mine@40"]) == ["mine@40"]


@pytest.mark.parametrize("text", ["", "[]", '{"format": "x"}', '{"pinned": {"a": "b"}}', '{"version": 2}'])
def test_what_is_not_a_suites_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(EvaluationError, match="not a suite's"):
        Suite(tmp_path)
    assert (tmp_path / "suite.json").read_text() == text


def test_evaluations_are_found_up_to_two_levels_down(tmp_path: Path) -> None:
    for name in ("a/b", "c", "d/e/f"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "header.json").write_text("{}")
    assert evaluations_in(tmp_path) == [tmp_path / "a" / "b", tmp_path / "c"]
    assert evaluations_in(tmp_path / "c") == [tmp_path / "c"]
    with pytest.raises(EvaluationError, match="holds no evaluation"):
        evaluations_in(tmp_path / "a" / "b" / "nowhere")
