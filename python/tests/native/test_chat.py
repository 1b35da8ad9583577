"""Chat templates, beside Python's own Jinja2 set up as `transformers` does it."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tiny import write

import tritlab as tl

NOW = "2026-02-03T04:05:06"

CHATS = {
    "plain": [
        {"role": "system", "content": "Be brief. <b>'quoted' & \"doubly\"</b>"},
        {"role": "user", "content": "  Grüße, 世界 🦙\n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
        {"role": "user", "content": "And?"},
    ],
    "no system": [{"role": "user", "content": "Hello"}],
    "calls": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "type": "function",
                    "function": {
                        "name": "weather",
                        "arguments": {"city": "Zürich", "days": 3, "x": 1e-7, "y": 1e22, "z": 0.1},
                    },
                }
            ],
        },
        {"role": "tool", "content": '{"rain": true, "none": null}'},
    ],
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather, <really> & 'truly' — überall",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]

# Each uses what real templates use: Llama 3's, Qwen3's, Gemma's, Phi's, Mistral's constructs.
TEMPLATES = {
    "blocks": """
{%- for message in messages %}
    {% if loop.first %}
{{ bos_token }}
    {% endif %}
    {{- '<|' + message.role + '|>' }}
{{ message['content'] | trim }}
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}
""",
    "namespace": """
{%- set ns = namespace(last=-1, names=[], found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == "user" and message.content is string %}
        {%- set ns.found = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {{- '[' ~ thoughts.strip() ~ ']' }}
    {%- endif %}
    {{- loop.index0 ~ ':' ~ message.role ~ (' *' if loop.index0 == ns.last else '') ~ '\\n' }}
    {{- content.replace('e', 'E').upper()[:12] }}
{% endfor %}
{%- if enable_thinking is defined and enable_thinking is false %}<think>\\n\\n</think>{% endif %}
""",
    "tools": """
{%- if tools %}
    {{- 'Tools:\\n' }}
    {%- for tool in tools %}
{{ tool | tojson }}
    {%- endfor %}
    {{- tools | tojson(indent=4) }}
    {{- tools[0].function.parameters.properties.items() | list | length }}
    {%- for key, value in tools[0].function.parameters.properties.items() %}
        {{- key ~ '=' ~ value.type ~ (', ' if not loop.last else '') }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- for call in message.tool_calls or [] %}
{{ call.function.name }}({{ call.function.arguments | tojson }})
    {%- endfor %}
{%- endfor %}
""",
    "macros": """
{%- macro turn(message, depth=0) -%}
<{{ message.role }}{{ ' ' * depth }}>
{%- if message.content is none %}none{% elif message.content is string -%}
{{ message.content }}{% endif -%}
</{{ message.role }}>
{%- endmacro %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {%- if loop.index > 3 %}{% break %}{% endif %}
    {{- turn(message, depth=loop.index) }}
{%- endfor %}
{{- strftime_now('%d %B %Y, %H:%M') }}
{{ messages | map(attribute='role') | join(', ') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ [true, none, 1.5, 'x'] }} {{ 7 // 2 }} {{ 7 % 4 }} {{ {'a': 1} | tojson }} {{ tools is none }}
{%- if messages[0].role == 'system' and false %}{{ raise_exception('no') }}{% endif %}
""",
    "refuses": """
{%- if messages[0].role == 'system' %}{{ raise_exception('No system role: é') }}{% endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate') }}
    {%- endif %}
{{ message.content }}
{%- endfor %}
{{ eos_token }}
""",
}


class RefusedError(Exception):
    pass


def jinja(template, **variables):
    """Render as `transformers` does."""

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    def raise_exception(message):
        raise RefusedError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = datetime.datetime.fromisoformat(NOW).strftime
    variables.setdefault("tools", None)
    variables.setdefault("documents", None)
    return environment.from_string(template).render(**variables)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    made = {}
    for name, template in TEMPLATES.items():
        made[name] = tl.Model.load(write(folder / f"{name}.gguf", template))
    return made


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("options", [{}, {"tools": TOOLS}, {"enable_thinking": False}], ids=str)
@pytest.mark.parametrize("prompt", [True, False])
def test_renders_are_jinja2_s(models, template, chat, options, prompt):
    def ours():
        return models[template].apply_chat_template(
            CHATS[chat], add_generation_prompt=prompt, now=NOW, **options
        )

    try:
        expected = jinja(
            TEMPLATES[template],
            messages=CHATS[chat],
            add_generation_prompt=prompt,
            bos_token="<s>",
            eos_token="</s>",
            **options,
        )
    except RefusedError as refusal:
        with pytest.raises(tl.errors.ModelError, match=str(refusal)):
            ours()
        return
    assert ours() == expected


def test_smollm2_s_template(smollm2):
    from gguf import GGUFReader

    template = GGUFReader(smollm2.path).fields["tokenizer.chat_template"].contents()
    for chat in ("plain", "no system"):
        for prompt in (True, False):
            ours = smollm2.apply_chat_template(CHATS[chat], prompt)
            assert ours == jinja(template, messages=CHATS[chat], add_generation_prompt=prompt)
            ids = smollm2.tokenize(ours, add_special=False, parse_special=True)
            assert ids[0] == 1  # <|im_start|>, one token
            assert smollm2.detokenize(ids) == ours


def test_no_second_bos(models):
    model = models["blocks"]
    prompt = model.apply_chat_template([{"role": "user", "content": "a"}])
    assert prompt.startswith("<s>")
    ids = model.tokenize(prompt, add_special=False, parse_special=True)
    assert list(ids[:2] == 0) == [True, False]
    said = [{"role": "user", "content": "a"}]
    answer = model.generate(ids, max_tokens=8, temperature=1.0)
    assert model.generate(said, max_tokens=8, temperature=1.0) == answer
    assert model.chat(said, max_tokens=8, temperature=1.0) == answer
    assert "".join(model.stream(said, max_tokens=8, temperature=1.0)) == answer
    assert model.generate_batch([said, ids], max_tokens=8)[0] == model.chat(said, max_tokens=8)


def test_what_cannot_be_rendered(tmp_path, models):
    said = [{"role": "user", "content": "a"}]
    model = models["blocks"]
    with pytest.raises(tl.errors.ModelError, match="no chat template"):
        tl.Model.load(write(tmp_path / "a.gguf")).chat(said)
    for bad in ("{% for %}", "{{ messages | nothing }}", "{% if %}"):
        broken = tl.Model.load(write(tmp_path / "b.gguf", bad))
        with pytest.raises(tl.errors.ModelError, match="chat template"):
            broken.chat(said)
    endless = (
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}"
    )
    hanging = tl.Model.load(write(tmp_path / "c.gguf", endless))
    with pytest.raises(tl.errors.ModelError, match="chat template"):
        hanging.chat(said)
    with pytest.raises(UnicodeEncodeError, match="surrogates"):
        model.chat([{"role": "user", "content": "caf\udce9"}])
    with pytest.raises(TypeError, match="JSON"):
        model.chat([{"role": "user", "content": object()}])
    endless: list[object] = []
    endless.append(endless)
    for call in (
        lambda: model.chat(endless),
        lambda: model.chat([{"role": "user", "content": endless}]),
        lambda: model.apply_chat_template(said, tools=endless),
        lambda: model.apply_chat_template(said, extra=endless),
    ):
        with pytest.raises(tl.errors.ModelError, match=r"messages, tools and variables: Circular"):
            call()
    with pytest.raises(TypeError):
        model.chat("hello")
    with pytest.raises(TypeError, match="prompt"):
        model.generate(3)
    with pytest.raises(tl.errors.ModelError, match="2026"):
        model.apply_chat_template(said, now="yesterday")
    with pytest.raises(TypeError, match="cast"):
        model.generate(np.array([1, 2], np.int64))
