"""The configuration: strict, all problems at once, nothing reachable from outside unasked."""

import re
from pathlib import Path

import pytest

from streamer.config import RunConfig, bound, expand, load, numbered, parse, runtime_folder
from streamer.errors import ConfigError

ROOT = Path(__file__).parents[1]

SOURCE = """
[stream.source]
endpoint = "tcp://127.0.0.1:45000"
source = "A/B/C:output"
key = "image.data"
axes = "pulse slow fast"
shape = [128, 128]
dtype = "uint16"
"""


def stream(name: str = "s", lines: str = "") -> str:
    return f'[[stream]]\nname = "{name}"\n{lines}\n{SOURCE}'


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "run.toml")
    return str(caught.value)


def test_the_smallest_file_has_every_default() -> None:
    config = parse(stream(), "run.toml")
    (only,) = config.stream
    assert (config.run, only.max_events, only.max_wait_s, only.on_overload) == (1, 64, 0.0, "keep")
    assert only.source.sources == ("A/B/C:output",)
    assert not config.expose


def test_it_is_frozen_and_survives_json() -> None:
    config = parse(stream(), "run.toml")
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match="frozen"):
        config.run = 2  # type: ignore[misc]


def test_every_problem_is_in_one_message_with_its_place() -> None:
    text = "run = 99999\ncolour = 1\n" + stream(lines='device = "gpu"\nmax_events = 0')
    message = refused(text.replace('dtype = "uint16"', 'dtype = "complex64"\nspeed = 3'))
    assert message.startswith("run.toml: 6 problem(s):")
    for place in (
        "run: ",
        "colour: unknown key",
        "stream.0.device",
        "stream.0.max_events",
        "stream.0.source.dtype",
        "stream.0.source.speed: unknown key; remove it or correct its spelling",
    ):
        assert place in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "stream: Field required"),
        ("stream = []", "at least 1 item"),
        ("stream = 3", "stream: .*tuple"),
        ("[[stream]]\npublish = 3", "publish"),
        ("run = [", "not TOML"),
        (stream("1s"), "stream.0.name: String should match"),
        (stream("../x"), "stream.0.name"),
        (stream() + '[[stream.route]]\nname = "a b"', "stream.0.route.0.name"),
        (stream() + '[[stream.route]]\nname = "a"\none_in = 0', "one_in"),
        (stream(lines='bundles = ["a", "a"]'), "at most 8 different bundles"),
        (stream(lines=f"bundles = {[str(i) for i in range(9)]}"), "at most 8 different bundles"),
        (stream() + stream(), "stream name 's' is used more than once"),
        (stream().replace("[128, 128]", "[128, 0]"), "stream.0.source.shape.1"),
        (stream(lines="deadline_s = -1"), "stream.0.deadline_s"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    assert re.search(message, refused(text))


@pytest.mark.parametrize(
    "lines",
    [
        '[stream.publish]\nresults = "tcp://0.0.0.0:45450"',
        '[stream.publish]\nverdicts = "tcp://*:45450"',
        '[stream.publish]\nkarabo_bridge = "tcp://192.168.1.2:45450"',
        '[metrics]\naddress = "0.0.0.0"',
    ],
)
def test_what_others_can_reach_is_refused_unless_exposed(lines: str) -> None:
    message = refused(stream() + lines)
    assert "can be reached by other machines; use 127.0.0.1, or set expose = true" in message
    assert parse("expose = true\n" + stream() + lines, "run.toml").expose


def test_endpoints_of_this_machine_are_fine() -> None:
    lines = '[stream.publish]\nresults = "ipc:///tmp/x"\nverdicts = "tcp://localhost:1"\n'
    assert parse(stream() + lines + 'karabo_bridge = "tcp://[::1]:4"', "run.toml").stream


def test_two_publishers_on_one_endpoint_are_refused() -> None:
    lines = '[stream.publish]\nresults = "tcp://127.0.0.1:7"\nverdicts = "tcp://127.0.0.1:7"'
    assert "endpoint 'tcp://127.0.0.1:7' is used more than once" in refused(stream() + lines)


def test_any_free_port_may_be_asked_for_twice() -> None:
    lines = '[stream.publish]\nresults = "tcp://127.0.0.1:0"\nverdicts = "tcp://127.0.0.1:0"'
    assert len(bound(parse(stream() + lines, "run.toml").stream[0])) == 2


def test_each_stream_has_its_own_default_ports() -> None:
    config = parse(stream("a") + stream("b") + stream("c"), "run.toml")
    ports = [int(endpoint.rpartition(":")[2]) for s in config.stream for endpoint in bound(s)]
    assert ports == list(range(45450, 45456))


def test_a_port_given_takes_no_default_from_another() -> None:
    lines = '[stream.publish]\nresults = "tcp://127.0.0.1:5"'
    first, second = parse(stream("a") + lines + "\n" + stream("b"), "run.toml").stream
    assert bound(first) == ["tcp://127.0.0.1:5", "tcp://127.0.0.1:45451"]
    assert bound(second) == ["tcp://127.0.0.1:45452", "tcp://127.0.0.1:45453"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A/{0..2}CH", ["A/0CH", "A/1CH", "A/2CH"]),
        ("A/{7..7}", ["A/7"]),
        ("A/B", ["A/B"]),
        ("A/{x..2}", ["A/{x..2}"]),
    ],
)
def test_modules_are_expanded(name: str, expected: list[str]) -> None:
    assert expand(name) == expected


def test_sixteen_modules_and_a_list() -> None:
    text = stream().replace('"A/B/C:output"', '["D/{0..15}CH0", "E"]')
    sources = parse(text, "run.toml").stream[0].source.sources
    assert (len(sources), sources[0], sources[15], sources[16]) == (17, "D/0CH0", "D/15CH0", "E")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('"A/{0..64}"', r"\{0\.\.64\} names 65 sources; expected 1 to 64, one per module, the lowest first"),
        ('"A/{0..40000000000}CH"', "names 40000000001 sources"),
        (f'"A/{{0..{"9" * 5000}}}"', "limit"),
        ('"A/{5..3}"', "names 0 sources"),
        ('["A/{0..63}", "B"]', "expected 1 to 64 sources, one per module, got 65"),
        (str([f"A/{i}" for i in range(65)]), "got 65"),
        ("[]", "got 0"),
    ],
)
def test_more_sources_than_modules_can_be_are_refused_before_they_are_listed(
    source: str, message: str
) -> None:
    text = refused(stream().replace('"A/B/C:output"', source))
    assert re.search("stream.0.source.source: .*" + message, text)


def test_sixty_four_modules_are_fine() -> None:
    text = stream().replace('"A/B/C:output"', '"A/{1..64}"')
    assert len(parse(text, "run.toml").stream[0].source.sources) == 64


@pytest.mark.parametrize(("step", "fine"), [(2**31, True), (2**31 + 1, False), (2**64, False), (0, False)])
def test_the_step_of_train_ids_is_bounded(step: int, fine: bool) -> None:
    text = stream() + f"train_id_step = {step}"
    if fine:
        assert parse(text, "run.toml").stream[0].source.train_id_step == step
    else:
        assert "stream.0.source.train_id_step" in refused(text)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*no\.toml.*No such file"):
        load(tmp_path / "no.toml")
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(ConfigError, match=r"latin\.toml"):
        load(tmp_path / "latin.toml")


def test_the_control_socket_is_in_the_users_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert parse(stream(), "x").control_endpoint == "ipc:///run/user/7/streamer/control"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert str(runtime_folder()).startswith("/tmp/streamer-")
    assert parse('control = "ipc:///tmp/c"\n' + stream(), "x").control_endpoint == "ipc:///tmp/c"


def example_files() -> list[Path]:
    """Every configuration of a run in the repository: TOML files with a stream."""
    found = [p for folder in ("docs", "examples", "deploy") for p in (ROOT / folder).rglob("*.toml")]
    return [path for path in found if "[[stream]]" in path.read_text()]


def example_blocks() -> list[tuple[str, str]]:
    """Every configuration of a run in the documents: fenced toml that names its streams whole."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    blocks = [
        (page.name, block)
        for page in pages
        for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    return [(page, block) for page, block in blocks if "[[stream]]" in block and "[stream.source]" in block]


def test_every_example_in_the_repository_is_valid() -> None:
    for path in example_files():
        load(path)
    for page, block in example_blocks():
        parse(block, page)


def test_a_service_numbers_its_runs_itself(tmp_path: Path) -> None:
    config = parse(f'run = 7\n[output]\ndirectory = "{tmp_path}"\n' + stream(), "test")
    assert numbered(config).run == 7
    for name in ("r0007", "r0012", "other"):
        (tmp_path / name).mkdir()
    assert numbered(config).run == 13
    (tmp_path / "r9999").mkdir()
    with pytest.raises(ConfigError, match="holds run 9999, the last number"):
        numbered(config)
