"""Decoding and scoring see one and the same policy, however requests are batched."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from overworld_vlm.batch import Prompt, PromptError, collate, encode, hidden_states
from overworld_vlm.engine import Engine
from overworld_vlm.load import VLM
from overworld_vlm.score import Scores, prefill_features, prompt_features, score
from overworld_vlm.tiny import make_tiny
from overworld_vlm.writer import Request
from peft import LoraConfig, get_peft_model
from torch import Tensor

from tests.support.optional import present
from tests.support.tiny_vlm import TEXTS, make_vlm, media, mixed_prompts, picture, user

INPUTS = ["last_prompt_token", "prompt_mean"]


@pytest.fixture(scope="session")
def brief() -> VLM:
    """A model of whose tokens many end a reply, so that some replies do end by themselves."""
    vlm = make_vlm(3)
    vlm.core.generation_config.eos_token_id = [vlm.tokenizer.eos_token_id, *range(100, 120)]
    return vlm


def make_requests(vlm: VLM, temperature: float | None = None) -> list[Request]:
    """Twelve requests of many kinds, two for each prompt."""
    prompts = mixed_prompts(vlm)
    return [
        Request(
            prompts[number % len(prompts)],
            max_new_tokens=1 + number * 7 % 23,
            key=(9, number),
            temperature=temperature or (0.5, 1.0, 1.7)[number % 3],
        )
        for number in range(12)
    ]


def run(vlm: VLM, requests: list[Request], **arguments: Any) -> list[Request]:
    Engine(vlm, **arguments).run(requests)
    return requests


def tensors(requests: list[Request]) -> list[Tensor]:
    return [torch.tensor(request.tokens) for request in requests]


def largest_difference(scores: Scores, requests: list[Request]) -> float:
    return max(
        float((scores.logps[row, : len(request.logps)] - torch.tensor(request.logps)).abs().max())
        for row, request in enumerate(requests)
    )


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_log_probs_of_decoding_are_those_of_teacher_forcing(brief: VLM, temperature: float) -> None:
    requests = run(brief, make_requests(brief, temperature), max_batch=4)
    assert {request.finish for request in requests} == {"stop", "length"}
    with torch.no_grad():
        scores = score(brief, [request.prompt for request in requests], tensors(requests), temperature=temperature)
    assert largest_difference(scores, requests) < 1e-4
    assert scores.mask.sum(1).tolist() == [len(request.tokens) for request in requests]
    assert (scores.logps[~scores.mask] == 0).all()


def test_each_request_has_its_own_temperature(vlm: VLM) -> None:
    for request in run(vlm, make_requests(vlm), max_batch=5):
        with torch.no_grad():
            scores = score(vlm, [request.prompt], tensors([request]), temperature=request.temperature)
        assert largest_difference(scores, [request]) < 1e-4


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_are_log_softmax_and_entropy_at_the_position_before(
    vlm: VLM, prompts: list[Prompt], temperature: float
) -> None:
    replies = [torch.arange(30, 30 + length) for length in (4, 1, 7, 3, 2, 5)]
    with torch.no_grad():
        scores = score(vlm, prompts, replies, temperature=temperature, entropy=True)
    entropies = present(scores.entropy)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        with torch.no_grad():
            hidden = hidden_states(vlm, collate(vlm, [prompt], [reply]))[0]
        logits = vlm.core.lm_head(hidden[len(prompt) - 1 : -1]).detach()
        logits[:, vlm.banned] = -torch.inf
        probabilities = (logits / temperature).softmax(-1)
        expected = probabilities.log()[torch.arange(len(reply)), reply]
        entropy = -torch.special.xlogy(probabilities, probabilities).sum(-1)
        assert torch.allclose(scores.logps[row, : len(reply)], expected, atol=1e-5)
        assert torch.allclose(entropies[row, : len(reply)], entropy, atol=1e-5)
        assert (entropies[row, len(reply) :] == 0).all()


def test_an_adapter_counts_in_decoding_and_scoring_alike() -> None:
    vlm = make_vlm()
    targets = vlm.family.lora_targets
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(vlm.model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    vlm = VLM(model.eval(), vlm.tokenizer, vlm.image_processor)
    requests = run(vlm, make_requests(vlm, 1.0), max_batch=4)
    prompts = [request.prompt for request in requests]
    with torch.no_grad():
        assert largest_difference(score(vlm, prompts, tensors(requests)), requests) < 1e-4
        with vlm.model.disable_adapter():
            assert largest_difference(score(vlm, prompts, tensors(requests)), requests) > 0.1
    names = [name for name, module in vlm.model.named_modules() if hasattr(module, "lora_A")]
    assert len(names) == 2 * 7  # layers times linear layers, none of them in the vision tower
    assert all("language_model" in name for name in names)


def test_greedy_replies_are_those_of_transformers(vlm: VLM, prompts: list[Prompt]) -> None:
    requests = run(vlm, [Request(prompt, 12, temperature=0) for prompt in prompts], max_batch=4)
    for prompt, request in zip(prompts, requests, strict=True):
        generated = vlm.model.generate(
            **media(vlm, prompt),
            input_ids=prompt.ids[None],
            attention_mask=torch.ones_like(prompt.ids)[None],
            mm_token_type_ids=(prompt.ids == vlm.image_token_id).int()[None],
            do_sample=False,
            max_new_tokens=12,
            suppress_tokens=vlm.banned.nonzero().squeeze(1).tolist(),
        )
        assert request.tokens == generated[0, len(prompt) :].tolist()
        with torch.no_grad():
            assert largest_difference(score(vlm, [prompt], tensors([request])), [request]) < 1e-4


@pytest.mark.parametrize(("max_batch", "batch_tokens"), [(1, 16_384), (3, 16_384), (5, 1), (64, 16_384)])
@pytest.mark.parametrize("backwards", [False, True])
def test_replies_do_not_depend_on_order_or_batch(
    brief: VLM, max_batch: int, batch_tokens: int, backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, log-probs and features too: a run that is resumed goes on to the same numbers."""
    expected = run(brief, make_requests(brief), max_batch=12)
    monkeypatch.setattr(brief, "batch_tokens", batch_tokens)
    requests = make_requests(brief)
    run(brief, requests[::-1] if backwards else requests, max_batch=max_batch)
    assert_equal(requests, expected)


def assert_equal(requests: list[Request], expected: list[Request]) -> None:
    """Not one bit differs."""
    assert [request.tokens for request in requests] == [request.tokens for request in expected]
    assert [request.logps for request in requests] == [request.logps for request in expected]
    for request, other in zip(requests, expected, strict=True):
        assert torch.equal(present(request.features), present(other.features))


def test_prompts_of_all_lengths_are_read_as_they_are_alone() -> None:
    """Those that attend to 192 tokens or more, whose sums are cut in two, too."""
    vlm = make_tiny(TEXTS)  # with heads as narrow as those of `vlm`, nothing is cut
    prompts = [encode(vlm, [user(" ".join("0741852963" * 15)[: 2 * count])]) for count in (20, 60, 80, 100, 120, 150)]
    assert sum(192 <= len(prompt) < 320 for prompt in prompts) > 1
    together = run(vlm, [Request(prompt, 2, key=(1,)) for prompt in prompts])
    assert_equal(together, [run(vlm, [Request(prompt, 2, key=(1,))])[0] for prompt in prompts])


def test_requests_join_and_leave_between_tokens(brief: VLM) -> None:
    expected = run(brief, make_requests(brief))
    requests = make_requests(brief)
    engine = Engine(brief, max_batch=6)
    waiting, finished = list(requests), []
    while waiting or not engine.idle:
        if waiting:
            engine.add(waiting.pop())
        before = [len(request.tokens) for request in requests]
        finished += engine.step()
        after = [len(request.tokens) for request in requests]
        assert all(new - old in (0, 1) for old, new in zip(before, after, strict=True))
    assert_equal(requests, expected)
    assert sorted(map(id, finished)) == sorted(map(id, requests))


def test_sampling_repeats_and_differs_by_key(vlm: VLM, prompts: list[Prompt]) -> None:
    def tokens(*key: int) -> list[int]:
        return run(vlm, [Request(prompts[1], 20, key=key)])[0].tokens

    assert tokens(1, 2, 3) == tokens(1, 2, 3)
    assert len({tuple(tokens(*key)) for key in ((1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3), (1, 2))}) == 5


def first_probabilities(vlm: VLM, prompt: Prompt, temperature: float) -> Tensor:
    """Of a reply's first token, fp64 [vocabulary]."""
    with torch.no_grad():
        logits = vlm.core.lm_head(hidden_states(vlm, collate(vlm, [prompt]))[0, -1])
    return (logits.double() / temperature).masked_fill(vlm.banned, -torch.inf).softmax(-1)


def test_sampled_replies_follow_the_models_distribution(vlm: VLM, prompts: list[Prompt]) -> None:
    """Chi-square of 3000 first tokens, those that are rare taken together."""
    count = 3000
    requests = [Request(prompts[0], 1, key=(4, number), temperature=0.4) for number in range(count)]
    run(vlm, requests, max_batch=500)
    expected = first_probabilities(vlm, prompts[0], 0.4) * count
    counts = torch.bincount(torch.tensor([request.tokens[0] for request in requests]), minlength=len(expected)).double()
    often = expected > 20
    cells = int(often.sum())
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    counts = torch.cat([counts[often], counts[~often].sum()[None]])
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 10 < cells < 100
    assert chi_square < cells + 3.1 * (2 * cells) ** 0.5 + 5  # about .001


def test_banned_tokens_are_never_sampled(vlm: VLM, prompts: list[Prompt]) -> None:
    requests = [Request(prompts[0], 20, key=(number,), temperature=50.0) for number in range(100)]
    tokens = torch.cat(tensors(run(vlm, requests, max_batch=100)))
    assert len(tokens) > 1500
    assert not vlm.banned[tokens].any()
    assert len(set(tokens.tolist())) > 250  # at this temperature nearly all the others are


def test_top_p_leaves_unlikely_tokens_out_and_log_probs_as_they_are(vlm: VLM, prompts: list[Prompt]) -> None:
    requests = [Request(prompts[0], 1, key=(number,), top_p=0.1) for number in range(300)]
    run(vlm, requests, max_batch=300)
    probabilities, order = first_probabilities(vlm, prompts[0], 1.0).sort(descending=True)
    kept = order[: int((probabilities.cumsum(0) < 0.1).sum()) + 1].tolist()
    assert 3 < len(kept) < 30
    assert {request.tokens[0] for request in requests} == set(kept)
    with torch.no_grad():
        assert largest_difference(score(vlm, [prompts[0]], tensors(requests[:1])), requests[:1]) < 1e-4


def test_a_reply_ends_with_its_end_token_which_counts(brief: VLM) -> None:
    for request in run(brief, make_requests(brief)):
        ends = [token in brief.eos_ids for token in request.tokens]
        assert not any(ends[:-1])
        assert ends[-1] == (request.finish == "stop")
        assert len(request.logps) == len(request.tokens)
        if request.finish == "length":
            assert len(request.tokens) == request.max_new_tokens


def test_an_end_token_in_the_last_place_is_an_end_not_a_cut(brief: VLM) -> None:
    whole = next(request for request in run(brief, make_requests(brief)) if request.finish == "stop")
    (again,) = run(brief, [Request(whole.prompt, len(whole.tokens), key=whole.key, temperature=whole.temperature)])
    assert (again.tokens, again.finish) == (whole.tokens, "stop")


def test_stop_ends_a_reply_early(vlm: VLM, prompts: list[Prompt]) -> None:
    seen = []

    def stop(tokens: Sequence[int]) -> bool:
        seen.append(len(tokens))
        return len(tokens) == 3

    stopped, other = run(vlm, [Request(prompts[1], 9, key=(1,), stop=stop), Request(prompts[2], 9, key=(2,))])
    assert (len(stopped.tokens), stopped.finish, seen) == (3, "stop", [1, 2, 3])
    assert (len(other.tokens), other.finish) == (9, "length")


def test_cancelled_requests_leave_the_others_as_they_are(vlm: VLM) -> None:
    expected = [request.tokens for request in run(vlm, make_requests(vlm))]
    requests = make_requests(vlm)
    running, waiting = requests[8], requests[11]
    order = [running, *(request for request in requests if request not in (running, waiting)), waiting]
    engine = Engine(vlm, max_batch=3)
    for request in order:
        engine.add(request)
    finished = []
    while len(running.tokens) < 4:
        finished += engine.step()
    assert (waiting.tokens, running.finish) == ([], None)
    running.cancelled = waiting.cancelled = True
    finished += engine.step()
    assert {id(running), id(waiting)} <= set(map(id, finished))
    while not engine.idle:
        finished += engine.step()
    assert running.finish == waiting.finish == "cancelled"
    assert running.tokens == expected[8][:4]
    assert waiting.tokens == []
    for request, tokens in zip(requests, expected, strict=True):
        if request not in (running, waiting):
            assert request.tokens == tokens
    assert finished.count(running) == finished.count(waiting) == 1


def test_what_can_never_fit_is_refused(vlm: VLM, prompts: list[Prompt]) -> None:
    engine = Engine(vlm)
    room = vlm.max_length - len(prompts[0])
    with pytest.raises(PromptError, match=f"{len(prompts[0])} and a reply of {room + 1} tokens exceed"):
        engine.add(Request(prompts[0], room + 1))
    with pytest.raises(ValueError, match="at least 1 token"):
        engine.add(Request(prompts[0], 0))
    assert engine.idle
    engine.add(Request(prompts[0], room))
    assert not engine.idle


def test_a_reply_may_fill_the_models_length(vlm: VLM) -> None:
    long = encode(vlm, [user("no picture, " * 20)])
    config = vlm.core.config.text_config
    length, config.max_position_embeddings = config.max_position_embeddings, len(long) + 100
    try:
        (request,) = run(vlm, [Request(long, 100, key=(1,), stop=lambda tokens: False)])
    finally:
        config.max_position_embeddings = length
    assert request.finish == "stop" or len(request.tokens) == 100
    with torch.no_grad():
        assert largest_difference(score(vlm, [long], tensors([request])), [request]) < 1e-4


def test_decoding_refuses_a_model_in_train_mode() -> None:
    vlm = make_vlm()
    vlm.model.train()
    engine = Engine(vlm)
    engine.add(Request(mixed_prompts(vlm)[0], 1))
    with pytest.raises(AssertionError, match="eval"):
        engine.step()


@pytest.mark.parametrize("value_input", INPUTS)
def test_features_are_those_of_the_prompt_alone(vlm: VLM, prompts: list[Prompt], value_input: str) -> None:
    """Decoding, teacher forcing and plain prefills give the same; a reply must not leak into a baseline."""
    requests = run(vlm, [Request(prompt, 5, key=(1,)) for prompt in prompts], max_batch=4, value_input=value_input)
    decoded = torch.stack([present(request.features) for request in requests])
    with torch.no_grad():
        forced = score(vlm, prompts, tensors(requests), value_input=value_input).features
        other = score(vlm, prompts, [torch.arange(40, 49)] * len(prompts), value_input=value_input).features
    prefilled = prefill_features(vlm, prompts, value_input)
    for features in (forced, other, prefilled):
        assert torch.allclose(features, decoded, atol=1e-5)
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            hidden = hidden_states(vlm, collate(vlm, [prompt]))[0]
        expected = hidden[-1] if value_input == "last_prompt_token" else hidden.mean(0)
        assert torch.allclose(decoded[row], expected, atol=1e-5)


def test_an_unknown_value_input_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt_mean"):
        prompt_features(torch.zeros(1, 2, 3), torch.tensor([1]), "last_token")


def test_no_prompts_have_no_features(vlm: VLM) -> None:
    assert prefill_features(vlm, [], "prompt_mean").shape == (0, vlm.hidden_size)


def test_features_carry_gradients_where_they_are_enabled(vlm: VLM, prompts: list[Prompt]) -> None:
    scores = score(vlm, prompts[:2], [torch.arange(5)] * 2, entropy=True)
    assert scores.logps.requires_grad
    assert scores.features.requires_grad
    assert not present(scores.entropy).requires_grad


def test_bf16_decodes_and_scores_nearly_alike(vlm: VLM) -> None:
    """The difference is what the trainer's guard watches: .05 on average is too much."""
    half = make_vlm()
    half.model.to(torch.bfloat16)
    requests = run(half, [Request(encode(half, [user(picture(1), "Go.")]), 20, key=(number,)) for number in range(4)])
    with torch.no_grad():
        scores = score(half, [request.prompt for request in requests], tensors(requests))
    assert scores.logps.dtype == scores.features.dtype == torch.float32
    sampled = torch.nn.utils.rnn.pad_sequence([torch.tensor(request.logps) for request in requests], batch_first=True)
    assert float((scores.logps - sampled).abs()[scores.mask].mean()) < 0.05


def test_run_writes_its_own_requests_and_leaves_the_others_unfinished(vlm: VLM) -> None:
    prompt = mixed_prompts(vlm)[0]
    long, short = Request(prompt, 20, key=(1,)), Request(prompt, 2, key=(2,))
    engine = Engine(vlm)
    engine.add(long)
    engine.run([short])
    assert (short.finish, long.finish) == ("length", None)
    assert 0 < len(long.tokens) < 20
    alone = Request(prompt, 20, key=(1,))
    while not engine.idle:
        engine.step()
    Engine(vlm).run([alone])
    assert long.tokens == alone.tokens


def test_objects_say_what_they_are(vlm: VLM) -> None:
    text, picture_and_text, *_ = prompts = mixed_prompts(vlm)
    assert repr(text) == f"Prompt({len(text)} tokens, 0 images)"
    assert repr(picture_and_text) == f"Prompt({len(picture_and_text)} tokens, 1 images)"
    assert "qwen2_vl" in repr(vlm)
    assert "float32 on cpu" in repr(vlm)
    request = Request(text, 3)
    assert repr(request) == f"Request({text!r}, 0 of 3 tokens, unfinished)"
    engine = Engine(vlm)
    engine.add(request)
    assert repr(engine) == f"Engine({vlm!r}, 0 requests running, 1 waiting)"
    batch = collate(vlm, [text, picture_and_text])
    tokens = len(text) + len(picture_and_text)
    assert repr(batch) == f"Batch(2 x {batch.ids.shape[1]} tokens, {tokens} of them not padding)"
    scores = score(vlm, prompts[:2], [torch.tensor([1, 2, 3]), torch.tensor([4])])
    assert repr(scores) == "Scores(2 replies, 4 tokens, the longest of 3)"
