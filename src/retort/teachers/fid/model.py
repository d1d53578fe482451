"""The Fusion-in-Decoder reader: any Hugging Face encoder-decoder, passages encoded alone and fused in the decoder.

Here: the module that training and generation call, how it is made, saved and loaded. Not here: prompts (prompts.py),
the loop (training.py), the label (attention.py). A reader may copy: it then mixes its vocabulary with its own
cross-attention over the passage tokens (See et al. 2017, arXiv 1704.04368, eq. 8-9), which lets a small decoder without
language pre-training answer in the passages' words.
"""

import json
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertLMHeadModel,
    EncoderDecoderModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from retort.teachers.fid.attention import captured_scores, start_token
from retort.teachers.fid.encoding import encode_passages

IGNORED = -100  # the label of a target position that is padding: transformers' convention
MARK = "reader.json"


class Reader(nn.Module):
    """A FiD reader. `forward` gives the log-likelihood of the target tokens; `generate` answers greedily.

    `model` is the encoder-decoder as transformers made it; `gate`, where there is one, is the probability of copying.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, copies: bool = False) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.gate = nn.Linear(model.get_decoder().config.hidden_size, 1) if copies else None

    def forward(
        self, input_ids: Int[Tensor, "B K L"], attention_mask: Int[Tensor, "B K L"], labels: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """Log-probability of each target token given those before it and all K passages; 0 where `labels` is -100."""
        states = encode_passages(self.model, input_ids, attention_mask)
        real = labels != IGNORED
        start = torch.full_like(labels[:, :1], start_token(self.model))
        pad = self.tokenizer.pad_token_id
        decoder_input = torch.cat([start, labels[:, :-1].masked_fill(~real[:, :-1], pad)], dim=1)
        log_probs = self.next_token(states, input_ids, attention_mask, decoder_input)
        return log_probs.gather(-1, labels.masked_fill(~real, 0)[..., None])[..., 0] * real

    def next_token(
        self,
        states: Float[Tensor, "B K L D"],
        input_ids: Int[Tensor, "B K L"],
        attention_mask: Int[Tensor, "B K L"],
        decoder_input: Int[Tensor, "B T"],
        past: object = None,
    ) -> Float[Tensor, "B T V"]:
        """Log-probabilities of the token after each position of `decoder_input`, in float32."""
        output, attention = self._decode(states, attention_mask, decoder_input, past)
        log_probs = output.logits.float().log_softmax(-1)
        if self.gate is None:
            return log_probs
        hidden = output.decoder_hidden_states[-1]  # type: ignore[index]
        gate = self.gate(hidden).float()
        source = input_ids.flatten(1)[:, None].expand(-1, attention.shape[1], -1)
        copied = torch.zeros_like(log_probs).scatter_add(-1, source, attention)
        tiny = torch.finfo(torch.float32).tiny  # a word that no passage holds has copy probability 0
        return torch.logaddexp(
            log_probs + nn.functional.logsigmoid(-gate), copied.clamp(min=tiny).log() + nn.functional.logsigmoid(gate)
        )

    def _decode(
        self, states: Tensor, attention_mask: Tensor, decoder_input: Tensor, past: object
    ) -> tuple[Seq2SeqLMOutput, Tensor]:
        """The decoder's output and its copy distribution [B, T, S]: last layer's cross-attention, mean over heads."""
        batch, passages, length, width = states.shape
        mask = attention_mask.view(batch, passages * length)

        def distribution(scores: Tensor) -> Tensor:
            scores = scores.float().masked_fill(~mask.bool()[:, None, None], torch.finfo(torch.float32).min)
            return scores.softmax(-1).mean(1)

        arguments = {
            "encoder_outputs": BaseModelOutput(last_hidden_state=states.view(batch, passages * length, width)),  # type: ignore[arg-type]
            "attention_mask": mask,
            "decoder_input_ids": decoder_input,
            "past_key_values": past,
            "use_cache": past is not None,
        }
        if self.gate is None:
            return self.model(**arguments), states.new_zeros(())
        with captured_scores(self.model, distribution, passages * length) as layers:
            output = self.model(**arguments, output_hidden_states=True)
        return output, layers[-1]

    def save(self, folder: Path) -> None:
        """A transformers folder (model and tokenizer) plus reader.json and, for a reader that copies, gate.safetensors."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.gate is not None:
            save_file(self.gate.state_dict(), folder / "gate.safetensors")
        (folder / MARK).write_text(json.dumps({"copies": self.gate is not None}))


def warm_start(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, decoder_layers: int) -> EncoderDecoderModel:
    """An encoder-decoder around a BERT-like `encoder`: its first layers, copied, become the decoder.

    Cross-attention and the output transform are new; word embeddings are one tensor for encoder, decoder and output.
    For a machine where no pre-trained encoder-decoder is at hand (Rothe et al. 2020, arXiv 1907.12461, "BERT2BERT").
    """
    config = encoder.config.from_dict(
        {
            **encoder.config.to_dict(),
            "num_hidden_layers": decoder_layers,
            "is_decoder": True,
            "add_cross_attention": True,
            "tie_word_embeddings": True,
        }
    )
    decoder = BertLMHeadModel(config)
    decoder.bert.load_state_dict(encoder.state_dict(), strict=False)
    for layer in decoder.bert.encoder.layer[:decoder_layers]:
        layer.crossattention.load_state_dict(layer.attention.state_dict())
    decoder.bert.embeddings.word_embeddings = encoder.embeddings.word_embeddings
    decoder.tie_weights()
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    for owner in (model.config, model.generation_config):
        owner.decoder_start_token_id = tokenizer.cls_token_id
        owner.pad_token_id = tokenizer.pad_token_id
        owner.eos_token_id = tokenizer.sep_token_id
    return model
