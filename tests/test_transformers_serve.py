"""`transformers serve` with a plug-in attached, asked by the client it is made for."""

import base64
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.documents import ROOT, blocks

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

QUESTIONS = {"what colour is the odd one out?": "white", "is there a red cross?": "no"}
IMAGE = base64.b64encode((ROOT / "data" / "example.png").read_bytes()).decode()


@pytest.fixture
def server(monkeypatch):
    """The example of docs/engines.md: model, handle and client, and the widths of its prefills."""
    monkeypatch.chdir(ROOT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names: dict = {}
    (block,) = blocks("docs/engines.md", "python")
    exec(compile(block.text.replace("8000", str(port)), "engines.md", "exec"), names)
    widths: list[int] = []
    layer = names["loaded"].model.get_decoder().layers[0]
    layer.self_attn.register_forward_pre_hook(
        lambda _, __, kwargs: widths.append(kwargs["hidden_states"].shape[1]), with_kwargs=True
    )
    for _ in range(600):
        if names["server"].server.started:
            break
        time.sleep(0.1)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    yield client, names["handle"], widths
    names["server"].kill_server()


def ask(client, question, **options):
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
        {"type": "text", "text": question},
    ]
    return client.chat.completions.create(
        model="data/tiny-vlm", max_tokens=4, messages=[{"role": "user", "content": parts}],
        temperature=0, **options,
    )


def test_requests_are_pruned_one_by_one_together_and_streamed(server):
    client, handle, widths = server
    for question, answer in QUESTIONS.items():
        found = ask(client, question)
        assert found.choices[0].message.content == answer
        assert widths[0] == found.usage.prompt_tokens - 144 + 18  # 18 enter the first layer
        widths.clear()
    asked = list(QUESTIONS) * 3
    with ThreadPoolExecutor(6) as pool:
        said = [one.choices[0].message.content for one in pool.map(lambda q: ask(client, q), asked)]
    assert said == [QUESTIONS[question] for question in asked]
    assert max(widths) < 40
    chunks = ask(client, asked[0], stream=True)
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == QUESTIONS[asked[0]]
    widths.clear()
    handle.remove()
    ask(client, asked[0])
    assert widths[0] > 144
