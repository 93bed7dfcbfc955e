"""What the document says about fields and headers, in words for those who write clients."""

from __future__ import annotations

_PARAMETERS = {
    "best_of": "Generate so many texts, at most `max_best_of` of `/info`, and answer with the likeliest. It needs "
    "sampling and no `seed`, and cannot be streamed. 1 if it is not given.",
    "temperature": "Above 0. What is below 1 favours likely tokens, what is above 1 evens them out. 1.0 if it is not "
    "given. Any other value samples.",
    "repetition_penalty": "Above 0. Scores of tokens that were there before are divided by it (multiplied where they "
    "are negative). 1.0, which changes nothing, if it is not given.",
    "frequency_penalty": "From -2 to 2. So much is taken off the score of a token for each time that it was generated "
    "before. 0.0 if it is not given.",
    "top_k": "Above 0. Choose among so many of the likeliest tokens. All of them if it is not given.",
    "top_p": "Above 0 and below 1. Choose among the likeliest tokens that have this probability together. All of them "
    "if it is not given.",
    "typical_p": "Above 0 and below 1. Choose among the tokens that are the most typical ones and have this "
    "probability together. All of them if it is not given.",
    "do_sample": "Sample: choose tokens at random, by their probabilities. `temperature`, `top_k`, `top_p` and "
    "`typical_p` imply it. Otherwise the likeliest token is taken each time.",
    "max_new_tokens": "Above 0. The longest text, in tokens; with the prompt at most `max_total_tokens` of `/info`. "
    "`null` asks for as many as fit.",
    "return_full_text": "Put the prompt before the generated text. If it is not given, only `/` and `/invocations` do "
    "so, for models whose `model_pipeline_tag` in `/info` is `text-generation`.",
    "stop": "Texts that end the generation, at most `max_stop_sequences` of `/info`. What stopped it stays in the "
    "text.",
    "truncate": "From 1 to `max_input_length` of `/info`. Of a longer prompt only so many tokens are used, the last "
    "ones.",
    "watermark": "Mark the text so that a program can tell later that it was generated.",
    "details": "Tell the tokens with their log-probabilities, and why the text ended.",
    "decoder_input_details": "Tell the tokens of the prompt with their log-probabilities, in `details.prefill`. It "
    "cannot be streamed.",
    "seed": "Of the random choices, at most 2^64 - 1: the same request with the same seed has the same answer. A "
    "random one if it is not given.",
    "top_n_tokens": "Tell so many of the likeliest tokens at each step, with their log-probabilities. The option "
    "`max_top_n_tokens` of the server limits it, 5 by default. 0 if it is not given.",
    "grammar": "What the text has to look like. Any text if it is not given.",
}

_OPENAI = {
    "model": "Any name. The answer is that of the one model that is served.",
    "temperature": "From 0 to 2. 0 takes the likeliest token each time. 1.0 if it is not given.",
    "top_p": "Above 0, at most 1. Choose among the likeliest tokens that have this probability together. 1.0 if it is "
    "not given.",
    "top_k": "Choose among so many of the likeliest tokens; 0 and -1 stand for all of them, as if it were not given. "
    "Not in OpenAI's API.",
    "repetition_penalty": "Above 0. Scores of tokens that were there before are divided by it (multiplied where they "
    "are negative). 1.0 if it is not given. Not in OpenAI's API.",
    "frequency_penalty": "From -2 to 2. So much is taken off the score of a token for each time that it was generated "
    "before. 0.0 if it is not given.",
    "presence_penalty": "From -2 to 2. So much is taken off the score of a token that was generated before. 0.0 if it "
    "is not given.",
    "min_p": "From 0 to 1. Only tokens that have at least this share of the likeliest one's probability are chosen. "
    "0.0 if it is not given. Not in OpenAI's API.",
    "typical_p": "Above 0, at most 1. Choose among the tokens that are the most typical ones and have this probability "
    "together. 1.0 if it is not given. Not in OpenAI's API.",
    "watermark": "Mark the text so that a program can tell later that it was generated. Not in OpenAI's API.",
    "seed": "Of the random choices, an integer of 64 bits: the same request with the same seed has the same answer. A "
    "random one if it is not given.",
    "stop": "A text that ends the generation, or a list of at most `max_stop_sequences` of `/info`. It is left out of "
    "the answer.",
    "stream": "Send the answer piece by piece, as server-sent events. `false` if it is not given.",
    "stream_options": "Allowed with `stream` only.",
    "ignore_eos": "Go on after the model's end-of-sequence token. Not in OpenAI's API.",
    "n": "So many texts for each prompt, from 1 to 128; together at most `max_concurrent_requests` of `/info`. 1 if it "
    "is not given.",
    "logit_bias": "What is added to the scores of tokens, by their ids: from -100 to 100.",
    "response_format": "What the text has to look like. Any text if it is not given.",
    "min_tokens": "Not served: anything but 0 is refused.",
    "stop_token_ids": "Not served: anything but an empty list is refused.",
}

_DETAILS = {
    "seed": "Of the random choices; `null` if there were none.",
    "prefill": "The tokens of the prompt if `decoder_input_details` was asked for.",
    "tokens": "The generated tokens.",
    "best_of_sequences": "The other texts if `best_of` was above 1.",
    "top_tokens": "The likeliest tokens of each step if `top_n_tokens` was above 0.",
}

_CHUNK = {
    "choices": "One piece; none in the chunk that has the token counts only.",
    "usage": "There if `stream_options` asked for it.",
}

_COMPLETION = {"model": "The model that is served.", "created": "Seconds since 1970."}

FIELDS: dict[str, dict[str, str]] = {
    "GenerateBody": {
        "inputs": "The prompt. It cannot be empty.",
        "parameters": "How to generate. Without this object tokens are chosen at random (`do_sample` is true); with "
        "it, also if it is empty, only when it says so.",
        "stream": "Send server-sent events instead of a list. Only `/` and `/invocations` look at it.",
    },
    "Parameters": _PARAMETERS,
    "ChatBody": {
        **_OPENAI,
        "messages": "The conversation so far. What roles there are is up to the model's chat template.",
        "max_tokens": "Above 0. The longest answer, in tokens. If it is not given, as many as fit. "
        "`max_completion_tokens` wins.",
        "max_completion_tokens": "Above 0. The longest answer, in tokens. If it is not given, as many as fit.",
        "logprobs": "Tell the tokens with their log-probabilities.",
        "top_logprobs": "Tell so many of the likeliest tokens at each step as well. It needs `logprobs`. The option "
        "`max_top_n_tokens` of the server limits it, 5 by default.",
        "tools": "Functions that the model may call. Their arguments always follow their JSON schemas.",
        "tool_choice": "`none`, `auto` (which is what counts if it is not given), `required`, or the function that has "
        "to be called.",
        "parallel_tool_calls": "Whether there may be several calls. `true` if it is not given.",
        "functions": "Not served: use `tools`.",
        "function_call": "Not served: use `tool_choice`.",
    },
    "CompletionBody": {
        **_OPENAI,
        "prompt": "A text, a list of token ids, or a list of several texts and lists of ids.",
        "max_tokens": "Above 0, or 0 with `echo`. The longest answer, in tokens. 16 if it is not given.",
        "logprobs": "Tell the tokens with their log-probabilities, and so many of the likeliest ones at each step. The "
        "option `max_top_n_tokens` of the server limits it, 5 by default.",
        "best_of": "Generate so many texts for each prompt, and answer with the `n` likeliest. Above `n` it is at most "
        "`max_best_of` of `/info`, and cannot be streamed. `n` if it is not given.",
        "echo": "Put the prompt before the text.",
        "suffix": "Not served: anything but an empty text is refused.",
    },
    "StreamOptions": {
        "include_usage": "Send the token counts in one more chunk at the end.",
        "continuous_usage_stats": "Send the token counts so far in every chunk.",
    },
    "Message": {
        "role": "Such as `system`, `user`, `assistant` or `tool`.",
        "content": "A text, or a list of texts. A message without it needs `tool_calls`.",
        "name": "Of who speaks, for chat templates that use it.",
        "tool_calls": "What the assistant called.",
        "tool_call_id": "The call that this message answers.",
    },
    "FunctionCall": {"arguments": "A JSON object, or its text."},
    "Function": {
        "description": "What the function does, for the model.",
        "parameters": "The JSON schema of the arguments. Any object if it is not given.",
        "strict": "Without effect: the schema is always followed.",
    },
    "JsonObjectFormat": {"value": "A JSON schema, or its text. Any JSON object if it is not given."},
    "JsonFormat": {"value": "A JSON schema, or its text."},
    "JsonSchemaFormat": {
        "json_schema": "OpenAI's way to give a schema.",
        "value": "TGI's way to give a schema: the schema or its text, or an object with a name and the `schema`.",
    },
    "NamedSchema": {
        "schema": "A JSON schema.",
        "name": "Without effect.",
        "description": "Without effect.",
        "strict": "Without effect: the schema is always followed.",
    },
    "RegexFormat": {"value": "A regular expression that the whole text matches."},
    "Error": {
        "error": "What is wrong, for a person.",
        "error_type": "What is wrong, for a program: `validation`, `template_error`, `overloaded`, `generation`, "
        "`incomplete_generation`, `healthcheck` or `internal`.",
    },
    "OpenAIError": {
        "message": "What is wrong, for a person.",
        "param": "The field at fault, where there is one.",
        "code": "The server's own name of what is wrong, as in `error_type` of the native API.",
    },
    "Generated": {"details": "There if `details` or `decoder_input_details` was asked for."},
    "StreamDetails": {
        "generated_tokens": "Length of the text, with the token that ended it.",
        "seed": "Of the random choices; `null` if there were none.",
    },
    "Details": _DETAILS,
    "BestOfSequence": _DETAILS,
    "StreamEvent": {
        "index": "Counts from 1.",
        "top_tokens": "The likeliest tokens of this step if `top_n_tokens` was above 0.",
        "generated_text": "`null` but in the last event.",
        "details": "`null` but in the last event, and there if `details` was asked for.",
    },
    "Token": {
        "text": "What the token adds to the text; empty while a character is incomplete.",
        "special": "It is no part of the text, such as an end-of-sequence token.",
    },
    "TokenSpan": {
        "start": "Position in the text, in characters.",
        "stop": "Position of what follows it.",
    },
    "Info": {
        "model_id": "Name of the model on the hub, or its path.",
        "model_sha": "Commit of the model on the hub.",
        "model_dtype": "Number format of the weights.",
        "model_device_type": "`cpu` or `cuda`.",
        "model_pipeline_tag": "What the hub says that the model is for.",
        "max_concurrent_requests": "Texts that are generated or wait at a time; what is beyond is refused.",
        "max_input_length": "Longest prompt, in tokens.",
        "max_total_tokens": "Longest prompt with its answer, in tokens.",
        "max_batch_total_tokens": "Tokens that all running requests may hold together.",
        "max_batch_size": "Requests that run at a time; `null` for any number.",
        "sha": "Commit of the server.",
    },
    "ChatCompletion": _COMPLETION,
    "ChatChunk": _CHUNK,
    "TextCompletion": _COMPLETION,
    "TextChunk": _CHUNK,
    "AssistantMessage": {
        "content": "`null` if the answer is nothing but calls.",
        "tool_calls": "There if a function is to be called.",
    },
    "MessageChoice": {"logprobs": "`null` if `logprobs` was not asked for."},
    "MessagePiece": {
        "logprobs": "`null` if `logprobs` was not asked for.",
        "finish_reason": "`null` but in the last piece.",
    },
    "TextChoice": {
        "logprobs": "`null` if `logprobs` was not asked for.",
        "finish_reason": "`null` in all pieces of a stream but the last.",
    },
    "TextLogprobs": {
        "top_logprobs": "Log-probabilities of the likeliest tokens; `null` for the first token of a prompt.",
        "text_offset": "Where the token begins in the text, in characters.",
    },
}
"""Sentences about fields, by schema. Ranges are here where breaking them is another error than a wrong type."""

HEADERS = {
    "x-compute-type": "What the model runs on.",
    "x-compute-characters": "Length of the prompt, in characters.",
    "x-compute-time": "Time from arrival to answer, in milliseconds, as `x-total-time`.",
    "x-total-time": "Time from arrival to answer, in milliseconds.",
    "x-validation-time": "Time for checking and tokenising, in milliseconds.",
    "x-queue-time": "Time waited for a place in the batch, in milliseconds.",
    "x-inference-time": "Time from there to the end of the text, in milliseconds.",
    "x-time-per-token": "The same for each generated token, in milliseconds.",
    "x-prompt-tokens": "Length of the prompt, in tokens.",
    "x-generated-tokens": "Number of generated tokens.",
}
"""Of answers. All but the first are integers."""
