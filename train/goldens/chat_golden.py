"""Makes llm/chat/testdata/goldens.json.gz: chat templates as the public models have them, and what the reference
(transformers' own Jinja environment) renders for 12,000 conversations made of the tokenizer goldens' strings: the first
of each template in full, a checksum of each.

Usage: python chat_golden.py [--out FILE]
"""
import argparse, gzip, json, os, zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from transformers.utils.chat_template_utils import _compile_jinja_template

import models_golden as mg
import tokenizers_golden as tg

QWEN25 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3 = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
LLAMA32 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message #}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{#- Custom tools are passed in a user message with some extra guidance #}
{%- if tools_in_user_message and not tools is none %}
    {#- Extract the first user message so we can plug it in here #}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- "Given the following functions, please respond with a JSON for a function call " }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
GEMMA = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
LLAVA_MISTRAL = "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}{% elif message['role'] == 'user' %}{{ '[INST] ' }}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}{{' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> '}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
# Not a model's: the constructs that newer templates use, in lines, so that the blocks' white space matters.
CONSTRUCTS = """{#- a comment -#}
{%- macro turn(role, text) -%}
  <{{ role }}>{{ text.strip() }}</{{ role | upper }}>
{%- endmacro -%}
{% set ns = namespace(users=0, last='') %}
  {% for m in messages %}
    {% if m.role == 'system' %}
      {% continue %}
    {% endif %}
    {% if m.role == 'user' %}{% set ns.users = ns.users + 1 %}{% endif %}
    {% set ns.last = m.content.split('\\n')[-1] %}
  {{ turn(m.role, m.content) }}
    {% if ns.users >= 2 %}
      {% break %}
    {% endif %}
  {% endfor %}
{{ ns.users }}|{{ ns.last.rstrip() }}|{{ messages[-1].content | length }}
{{ messages | map(attribute='role') | join(', ') }}
{{ messages | tojson }}{{ [1, 2.5, true, none, "<é'>", {}] | tojson }}{{ messages[0] | tojson(indent=2) }}
{%- for i in range(3) %} {{ i }}{% if not loop.last %},{% endif %}{% endfor %}

{{ messages[0].role.title() }} {{ 'sys' in messages[0].role }} {{ messages[0].content.startswith('the') }} {{ messages[0].content.replace('e', 'E')[:5] }} {{ messages[::-1][0].role }} {{ (messages | last).role }} {{ messages[0].missing is defined }} {{ none is none }} {{ 7 // 2 }} {{ 'a' ~ 1 }}
"""
FLAT = {"smollm2": mg.SMOLLM_CHAT, "qwen2.5": QWEN25, "llama3": LLAMA3, "llama3.2": LLAMA32, "mistral": MISTRAL, "gemma": GEMMA, "constructs": CONSTRUCTS}
PARTS = {"smolvlm2": mg.SMOLVLM_CHAT, "llava-next-vicuna": mg.VICUNA_CHAT, "llava-next-mistral": LLAVA_MISTRAL, "llava-onevision": mg.QWEN_VL_CHAT}
DATE = "24 Nov 2026"


def conversation(i, parts):
    """The Go test makes the same."""
    text = lambda k: tg.string(i + k).decode("utf-8", errors="replace")
    shape = i // 16 % 4
    turns = [("user", text(0))]
    if shape in (1, 3):
        turns += [("assistant", text(1)), ("user", text(2))]
    if shape in (2, 3):
        turns = [("system", text(3))] + turns
    if not parts:
        return [{"role": r, "content": t} for r, t in turns]
    return [{"role": r, "content": ([{"type": "image"}] * (i % 3) + [{"type": "video"}] * (i // 3 % 2) if r == "user" else []) + [{"type": "text", "text": t}]} for r, t in turns]


def main():
    here = Path(__file__).resolve().parent
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", type=Path, default=here / "../../llm/chat/testdata/goldens.json.gz")
    args = ap.parse_args()
    names = sorted(FLAT) + sorted(PARTS)
    sums, full, refused = bytearray(), {}, 0
    for i in range(tg.COUNT):
        name = names[i % len(names)]
        kw = dict(messages=conversation(i, name in PARTS), add_generation_prompt=i % 2 == 0, bos_token="<s>", eos_token="</s>", tools=None, documents=None, strftime_now=lambda f: DATE)
        try:
            out = _compile_jinja_template({**FLAT, **PARTS}[name]).render(**kw)
        except Exception as e:
            out = "refused: " + str(e)
            refused += 1
        sums += (zlib.crc32(out.encode()) & 0xFFFF).to_bytes(2, "little")
        if i < 20 * len(names):
            full[i] = out
    g = {"templates": {**FLAT, **PARTS}, "parts": sorted(PARTS), "names": names, "date": DATE, "count": tg.COUNT, "sums": bytes(sums).hex(), "full": full}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(gzip.compress(json.dumps(g, ensure_ascii=False).encode(), 9, mtime=0))
    print(args.out, args.out.stat().st_size, "refused", refused)


if __name__ == "__main__":
    main()
