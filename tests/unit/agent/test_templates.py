"""Templates in specs: what is filled in, what is refused, and how ports get their numbers."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.core.bundle import NodeFacts, make_bundle
from services.agent.core.ports import fill_ports, marked_ports
from services.agent.core.templates import PayloadScope, Scope, TemplateError, render, render_payload
from services.kit.model.specs import ContainerSpec, EndpointSpec, Mount, Platform, PortConfig
from services.kit.model.states import MountType, PublishMode
from tests.support.agents import NODE, make_spec, make_task, task_id

SCOPE = Scope(
    task_id="t1",
    task_name="web.3.t1",
    task_slot="3",
    service_id="s1",
    service_name="web",
    service_labels={"tier": "front", "a.b": "dotted"},
    node_id="n1",
    node_hostname="host-1",
    node_platform=Platform(architecture="x86_64", os="linux"),
    port_names=frozenset({"api"}),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a}}b{c", "a}}b{c"),
        ("{{.Task.ID}}", "t1"),
        ("x={{ .Task.Slot }};", "x=3;"),
        ("{{.Task.Name}}/{{.Service.ID}}/{{.Service.Name}}", "web.3.t1/s1/web"),
        (
            "{{.Node.ID}} {{.Node.Hostname}} {{.Node.Platform.Architecture}}-{{.Node.Platform.OS}}",
            "n1 host-1 x86_64-linux",
        ),
        ('{{index .Service.Labels "tier"}}', "front"),
        ('{{index .Service.Labels "a.b"}}', "dotted"),
        ('{{index .Service.Labels "missing"}}', ""),
        ("{{.Service.Labels.tier}}", "front"),
        ("{{.Service.Labels.missing}}", ""),
        ('{{"{{"}}', "{{"),
        ("{{`}}`}}", "}}"),
        ('{{"a\\"}}b"}}', 'a"}}b'),
        ("a {{- .Task.Slot -}} b", "a3b"),
        ("{{/* nothing */}}x", "x"),
        ("{{if .Service.Labels.missing}}a{{else}}b{{end}}c", "bc"),
        ('{{if eq .Node.Hostname "other"}}1{{else if eq .Task.Slot "2" "3"}}2{{else}}3{{end}}', "2"),
        ('{{if and .Task.ID (not (eq .Task.Slot "9"))}}{{if true}}in{{end}}{{end}}', "in"),
        ('{{or .Service.Labels.missing "default"}}', "default"),
        ('{{ "tier" | index .Service.Labels }}', "front"),
        ("{{len .Task.ID}} {{ne 1 2}} {{-7}}", "2 true -7"),
        ("{{- .Task.Slot -}}\n x", "3x"),
        ("{{.Task.Port}}", "\0port:\0"),
        ('{{.Task.Port "api"}}', "\0port:api\0"),
    ],
)
def test_what_is_filled_in(text: str, expected: str) -> None:
    assert render(text, SCOPE) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{.Task.Nonsense}}", "there is no field .Task.Nonsense"),
        ("{{.Task}}", "there is no field .Task"),
        ("{{.Task.ID", "not closed"),
        ('{{"open}}', "not closed"),
        ("{{}}", "cannot read {{}}"),
        ("{{if .Task.ID}}x", "an if has no end"),
        ("{{if .Task.ID}}x{{else}}y", "an else has no end"),
        ("x{{end}}", "{{end}} without an if"),
        ("{{.Task.ID | printf}}", "there is no function printf"),
        ("{{(.Task.ID}}", "cannot read {{(.Task.ID}}"),
        ("{{.Task.ID .Task.ID}}", "there is no field .Task.ID"),
        ('{{index .Node.Labels "x"}}', "there is no field .Node.Labels"),
        ('{{index .Task.ID "x"}}', "index is given what it does not take"),
        ('{{env "HOME"}}', "there is no function env"),
        (f"{'{{if true}}' * 65}{'{{end}}' * 65}", "more than 64 ifs"),
        ('{{.Task.Port "nope"}}', "publishes no port named 'nope'"),
        ('{{"\\q"}}', "cannot read the text"),
    ],
)
def test_what_is_refused_and_why(text: str, reason: str) -> None:
    with pytest.raises(TemplateError) as refused:
        render(text, SCOPE)
    assert reason in str(refused.value)
    assert repr(text) in str(refused.value)


def test_every_field_that_may_hold_templates_is_filled_in() -> None:
    ports = (
        PortConfig(target_port=80, published_port=8080),
        PortConfig(name="own", target_port=90, published_port=9090, publish_mode=PublishMode.HOST),
    )
    container = ContainerSpec(
        command=("run", "{{.Task.Slot}}"),
        args=("--port", "{{.Task.Port}}"),
        env=("NAME={{.Service.Name}}", 'OWN={{.Task.Port "own"}}'),
        hostname="{{.Node.Hostname}}-{{.Task.Slot}}",
        mounts=(
            Mount(
                type=MountType.VOLUME,
                source="data-{{.Task.Slot}}",
                target="/data/{{.Task.ID}}",
                labels={"s": "{{.Service.Name}}"},
                volume_driver_options={"o": "{{.Task.Port}}"},
            ),
        ),
    )
    spec = make_spec(container=container, endpoint=EndpointSpec(ports=ports))
    node = NodeFacts(id=NODE, hostname="host", platform=Platform())
    bundle = make_bundle(make_task(5), spec, node)
    assert bundle.name == f"web.5.{task_id(5)}"
    assert [(need.target_port, need.fixed_port) for need in bundle.ports] == [(80, 0), (90, 9090)]
    assert marked_ports(bundle.container) == {"", "own"}
    filled = fill_ports(bundle.container, {"": 20001, "own": 9090})
    assert filled.command == ("run", "5")
    assert filled.args == ("--port", "20001")
    assert filled.env == ("NAME=web", "OWN=9090")
    assert filled.hostname == "host-5"
    mount = filled.mounts[0]
    assert (mount.source, mount.target, mount.labels) == ("data-5", f"/data/{task_id(5)}", {"s": "web"})
    assert mount.volume_driver_options == {"o": "20001"}


PAYLOADS = PayloadScope(
    scope=SCOPE, env={"COLOUR": "red"}, secrets={"key": b"hush", "raw": b"\xff"}, configs={"app.conf": b"a=1"}
)


def test_a_payload_may_name_variables_secrets_and_configs() -> None:
    scope = dataclasses.replace(PAYLOADS)
    text = b'{{env "COLOUR"}} {{env "MISSING"}} {{config "app.conf"}} {{.Task.Slot}}'
    assert render_payload(text, "golang", scope, "config c") == b"red  a=1 3"
    before = scope.used_secret
    assert render_payload(b'pw={{secret "key"}}', "golang", scope, "config c") == b"pw=hush"
    assert (before, scope.used_secret) == (False, True)
    assert render_payload(b"{{.Nothing}}\xff", "", scope, "config c") == b"{{.Nothing}}\xff", "it is no template"


@pytest.mark.parametrize(
    ("data", "templating", "reason"),
    [
        (b"x", "jinja", "there is no templating 'jinja'"),
        (b"\xff{{", "golang", "UTF-8"),
        (b'one\ntwo {{secret "nope"}}', "golang", "line 2"),
        (b'{{secret "raw"}}', "golang", "line 1"),
        (b"{{open", "golang", "line 1"),
        (b"a\n\n{{if true}}\n{{hidden words}}{{end}}", "golang", "line 4"),
    ],
)
def test_a_payload_that_cannot_be_filled_in_is_refused_without_being_quoted(
    data: bytes, templating: str, reason: str
) -> None:
    with pytest.raises(TemplateError) as refused:
        render_payload(data, templating, PAYLOADS, "secret s")
    assert reason in str(refused.value)
    assert str(refused.value).startswith("secret s: ")
    assert "hidden" not in str(refused.value)


@given(st.text(alphabet='{}-|()"`.if else end\n\\Task0x', max_size=80))
def test_any_text_is_filled_in_or_refused(text: str) -> None:
    with contextlib.suppress(TemplateError):
        assert isinstance(render(text, SCOPE), str)
