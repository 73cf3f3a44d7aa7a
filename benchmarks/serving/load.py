"""`rcp serve` behind the OpenAI API: are answers right, and how many requests does it take?"""

import argparse
import asyncio
import base64
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.serving.cases import Question, asked, questions
from benchmarks.serving.engine import ON_A_CPU
from benchmarks.serving.equality import BASE, LENGTH, settings_of
from benchmarks.serving.padded import padded
from benchmarks.serving.reference import Reference
from rcp.base_model.loading import pretrained

METHOD = "divprune"
PORT = 8765
AT_ONCE = 8
SENT = 160
BUDGETS = (4, 18, 72, "all")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Three questions at two budgets against transformers', then load at both."""
    torch.set_num_threads(1)
    model, processor = pretrained(str(BASE), dtype=torch.float32)
    settings = settings_of(METHOD, options.plugin, model)
    reference = Reference(model.eval(), processor, settings.entry())
    known = questions(options.data, 2 * SENT)
    base = padded(BASE, Path("runs/serving/base"))
    with serving(Path(settings.plugin), base) as name:
        client = asyncio.run(_right(reference, known[:3], processor, name))
        rows = [asyncio.run(_load(known, budget, name)) for budget in BUDGETS]
    return {
        "about": f"{SENT} requests of different questions, {AT_ONCE} at once, by an asynchronous "
                 f"client to `python -m rcp serve` with `{METHOD}`, which runs beside it on the "
                 f"same two cores. An image has 144 tokens, and the model is so small that a "
                 f"request costs more than its prompt: what pruning saves of a large one does not "
                 f"show here.",
        "client": client,
        "rows": rows,
    }


@contextmanager
def serving(plugin: Path, base: Path) -> Iterator[str]:
    """Inside, a server answers on this machine; yields what it calls its model."""
    command = [
        sys.executable, "-m", "rcp", "serve", str(plugin), "--base", str(base), "--dtype",
        "float32", "--max-model-len", "1024", "--max-num-seqs", "16", "--enforce-eager",
        "--host", "127.0.0.1", "--port", str(PORT),
    ]
    server = subprocess.Popen(command, env=os.environ | ON_A_CPU)
    try:
        _wait(server)
        yield str(base)
    finally:
        server.terminate()
        server.wait()


def _wait(server: Any) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)
    raise RuntimeError("the server has ended before it answered")


def _request(question: Question, budget: int | str, model: str) -> dict[str, Any]:
    image = base64.b64encode(question.image.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "text", "text": question.text},
    ]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": LENGTH,
        "extra_body": {"mm_processor_kwargs": {"visual_budget": budget}},
    }


def _client() -> Any:
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", max_retries=0)


async def _right(
    reference: Reference, known: Sequence[Question], processor: Any, model: str
) -> str:
    """Questions about one image, at two budgets, by the stock client."""
    from openai import BadRequestError

    image, same = known[0].image, 0
    async with _client() as client:
        for question in known:
            for budget in (18, 36):
                about = Question(question.text, image)
                made = await client.chat.completions.create(**_request(about, budget, model))
                ids = reference.answer(asked(about, budget=budget), LENGTH)
                wanted = processor.decode(ids, skip_special_tokens=True).strip()
                same += made.choices[0].message.content.strip() == wanted
        try:
            await client.chat.completions.create(**_request(known[0], 1000, model))
            refused = "accepted"
        except BadRequestError as error:
            refused = f"refused: {error.body['message']}"
    return (
        f"The stock OpenAI client asking {len(known)} questions about one image at budgets of 18 "
        f"and 36: {same} of {2 * len(known)} answers are those of transformers. A budget of 1000 "
        f"is {refused}"
    )


async def _load(known: Sequence[Question], budget: int | str, model: str) -> dict[str, Any]:
    """The first of ``known`` to warm up, the second half of them timed."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def first_token(client: Any, question: Question) -> tuple[float, bool]:
        async with gate:
            start = time.perf_counter()
            stream = await client.chat.completions.create(
                **_request(question, budget, model), stream=True
            )
            first, said = 0.0, ""
            async for part in stream:
                first = first or time.perf_counter() - start
                said += part.choices[0].delta.content or ""
            return first, said.strip().lower() == question.answer.lower()

    async with _client() as client:
        await asyncio.gather(*(first_token(client, q) for q in known[: AT_ONCE]))
        start = time.perf_counter()
        done = await asyncio.gather(*(first_token(client, q) for q in known[SENT:]))
        seconds = time.perf_counter() - start
    times = torch.tensor([first for first, _ in done], dtype=torch.float64) * 1000
    shares = {f"p{share}": times.quantile(share / 100).item() for share in (50, 95, 99)}
    right = sum(is_right for _, is_right in done) / len(done)
    return {"budget": budget, "requests_per_second": len(done) / seconds, **shares,
            "accuracy": right}
