"""Headers of answers."""

from __future__ import annotations

from tgi_server.router.http.calls import Call


def stream_headers(compute_type: str, characters: int) -> dict[str, str]:
    """Headers that are known before anything is computed. `characters` is the length of the prompt text."""
    return {"x-compute-type": compute_type, "x-compute-characters": str(characters)}


def headers(call: Call, compute_type: str) -> dict[str, str]:
    """Headers of a finished answer; times in whole milliseconds."""
    generated = call.finish.generated_tokens if call.finish else 0
    total, inference = call.total_time, call.generation.inference_time
    return stream_headers(compute_type, call.prepared.characters) | {
        "x-compute-time": _ms(total),
        "x-total-time": _ms(total),
        "x-validation-time": _ms(call.validation_time),
        "x-queue-time": _ms(call.generation.queue_time),
        "x-inference-time": _ms(inference),
        "x-time-per-token": _ms(inference / max(generated, 1)),
        "x-prompt-tokens": str(call.prompt_tokens),
        "x-generated-tokens": str(generated),
    }


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))
