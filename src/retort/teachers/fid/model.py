"""The Fusion-in-Decoder reader: any Hugging Face encoder-decoder, passages encoded alone and fused in the decoder.

Here: the module that training and labelling call, and greedy generation. Not here: making and loading (loading.py), prompts
(prompts.py), the training loop (training.py), the label (attention.py). Source: arXiv 2007.01282. A reader may copy: it
then mixes its vocabulary with its own cross-attention over the passage tokens (See et al. 2017, arXiv 1704.04368,
eq. 8-9), which lets a small decoder without language pre-training answer in the passages' words.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput

from retort.teachers.fid.capture import captured_scores, shares
from retort.teachers.fid.decoding import IGNORED, fused, shifted, start_token
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.tokenizers import padding_token


class FusionInDecoder(nn.Module):
    """An encoder-decoder that fuses passages in its decoder: `forward` gives the log-likelihood of the target tokens.

    `model` is the encoder-decoder as transformers made it; `gate`, where it copies, gives the probability of copying.
    """

    def __init__(self, model: PreTrainedModel, *, copies: bool = False) -> None:
        super().__init__()
        self.model = model
        self.gate = nn.Linear(model.get_decoder().config.hidden_size, 1) if copies else None

    def forward(
        self, input_ids: Int[Tensor, "B K L"], attention_mask: Int[Tensor, "B K L"], labels: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """Log-probability of each target token given those before it and all K passages; 0 where `labels` is -100."""
        return self.target_log_probs(
            encode_passages(self.model, input_ids, attention_mask), input_ids, attention_mask, labels
        )

    def target_log_probs(
        self,
        states: Float[Tensor, "B K L D"],
        input_ids: Int[Tensor, "B K L"],
        attention_mask: Int[Tensor, "B K L"],
        labels: Int[Tensor, "B T"],
        past: Cache | None = None,
    ) -> Float[Tensor, "B T"]:
        """What `forward` gives, of passages that are encoded already; `past` may hold their keys and values."""
        decoder_input = shifted(self.model, labels)
        log_probs, _ = self.next_token(states, input_ids, attention_mask, decoder_input, past, cached=past is not None)
        return log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels == IGNORED, 0.0)

    def next_token(
        self,
        states: Float[Tensor, "B K L D"],
        input_ids: Int[Tensor, "B K L"],
        attention_mask: Int[Tensor, "B K L"],
        decoder_input: Int[Tensor, "B T"],
        past: Cache | None = None,
        *,
        cached: bool = False,
    ) -> tuple[Float[Tensor, "B T V"], Cache | None]:
        """Float32 log-probabilities of the token after each position of `decoder_input`, and the cache to go on with."""
        output, attention = self._decode(states, attention_mask, decoder_input, past, cached)
        log_probs = cast(Tensor, output.logits).float().log_softmax(-1)
        if self.gate is None:
            return log_probs, output.past_key_values
        gate = self.gate(output.decoder_hidden_states[-1]).float()  # type: ignore[index]
        source = input_ids.flatten(1)[:, None].expand(-1, attention.shape[1], -1)
        copied = torch.zeros_like(log_probs).scatter_add(-1, source, attention)
        tiny = torch.finfo(torch.float32).tiny  # a word that no passage holds is copied with probability 0
        mixed = torch.logaddexp(
            log_probs + nn.functional.logsigmoid(-gate), copied.clamp(min=tiny).log() + nn.functional.logsigmoid(gate)
        )
        return mixed, output.past_key_values

    def _decode(
        self, states: Tensor, attention_mask: Tensor, decoder_input: Tensor, past: Cache | None, cached: bool
    ) -> tuple[Seq2SeqLMOutput, Tensor]:
        """The decoder's output and, where the reader copies, its last cross-attention [B, T, K L], mean over heads."""
        arguments = fused(states, attention_mask, decoder_input) | {"past_key_values": past, "use_cache": cached}
        if self.gate is None:
            return self.model(**arguments), states
        mask, last = arguments["attention_mask"], states

        def see(scores: Tensor, values: Tensor) -> None:
            nonlocal last
            last = shares(scores, mask).mean(1)

        with captured_scores(self.model, see, mask.shape[1]):
            output = self.model(**arguments, output_hidden_states=True)
        return output, last


class Reader(FusionInDecoder):
    """A FiD reader: a decoder over passages, the tokeniser that goes with it, and greedy answers."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, copies: bool = False) -> None:
        super().__init__(model, copies=copies)
        self.tokenizer = tokenizer

    @torch.no_grad()
    def generate(
        self, input_ids: Int[Tensor, "B K L"], attention_mask: Int[Tensor, "B K L"], *, max_tokens: int
    ) -> Int[Tensor, "B T"]:
        """The greedy answer's token ids, pads after the end token; at most `max_tokens`. Keys and values are cached.

        Ties go to the lowest id. Our own loop, because a copying reader's probabilities are not its model's logits.
        """
        states = encode_passages(self.model, input_ids, attention_mask)
        pad, end = padding_token(self.tokenizer), end_token(self)
        token = torch.full_like(input_ids[:, 0, :1], start_token(self.model))
        done = torch.zeros_like(token, dtype=torch.bool)
        past, answer = None, []
        while len(answer) < max_tokens and not bool(done.all()):
            log_probs, past = self.next_token(states, input_ids, attention_mask, token, past, cached=True)
            token = log_probs[:, -1:].argmax(-1).masked_fill(done, pad)
            answer.append(token)
            done = done | (token == end)
        return torch.cat(answer, dim=1)


def end_token(reader: Reader) -> int:
    """The id that ends an answer. ValueError where neither the model nor the tokeniser names one."""
    named = getattr(reader.model.config, "eos_token_id", None)  # an EncoderDecoderModel's config may lack it
    for token in (named, reader.tokenizer.eos_token_id, reader.tokenizer.sep_token_id):
        if token is not None:
            return int(token)  # type: ignore[arg-type]
    raise ValueError(f"{type(reader.model).__name__} names no end token: set config.eos_token_id")
