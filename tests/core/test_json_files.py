import json

import pytest

from antvisionps.core.errors import CacheError
from antvisionps.core.json_depth import MAX_DEPTH
from antvisionps.core.json_files import iterate_json, read_json

DEEP = 200_000


def read_whole(path):
    return read_json(path, what="table", remedy="write it again")


def read_items(path):
    return list(iterate_json(path, "item", what="table", remedy="write it again"))


@pytest.mark.parametrize("read", [read_whole, read_items])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * DEEP + "]" * DEEP, "nested too deeply"),
        ('[{"a": ' + '{"a": ' * DEEP + "1" + "}" * DEEP + "}]", "nested too deeply"),
        ("[1, " + "9" * 5000 + "]", "Exceeds the limit"),
        ("[1, ", ""),
        ("\x00\x01", ""),
    ],
)
def test_what_is_no_json_is_one_line_with_path_and_remedy(tmp_path, read, text, reason):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CacheError, match=rf"^{path}: no readable table \(.*{reason}[^\n]*\); write it again$"):
        read(path)


def test_brackets_and_quotes_in_strings_are_no_depth(tmp_path):
    path = tmp_path / "a.json"
    names = ["[{" * MAX_DEPTH + '"' * n + "\\" * m for n in range(4) for m in range(4)] * 200
    path.write_text(json.dumps([names, [[1]]]))
    assert read_items(path) == [names, [[1]]]
    path.write_text(json.dumps([[0]] * 20 * MAX_DEPTH))  # many, but beside each other
    assert len(read_items(path)) == 20 * MAX_DEPTH


def test_a_key_that_stands_twice_is_refused_where_it_must_not(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1, "b": 2, "a": 3}]')
    assert read_whole(path) == [{"a": 3, "b": 2}]
    with pytest.raises(CacheError, match="key 'a' stands twice in an object"):
        read_json(path, what="table", remedy="write it again", allow_repeats=False)
