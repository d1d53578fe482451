"""FiD's head for small vectors: a linear map and a LayerNorm of every token before pooling (arXiv 2012.15156).

Made of stock modules, so that the saved folder loads anywhere: sentence-transformers 6 opens a folder that names a class of
another package only with trust_remote_code=True.
"""

import math

import torch
from jaxtyping import Float
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.base.modules.module import Module
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor

TOKENS = "token_embeddings"


def token_head(
    weight: Float[Tensor, "D H"],
    bias: Float[Tensor, "D"],
    gain: Float[Tensor, "D"],
    shift: Float[Tensor, "D"],
    *,
    pooling: str = "mean",
    epsilon: float = 1e-5,
) -> list[Module]:
    """The modules behind an encoder that give pool(LayerNorm(W h + b)), exactly, with LayerNorm's own `gain` and `shift`.

    With x = W h + b less its mean over the D numbers, which is linear in h and goes into W and b, LayerNorm is
    gain * sqrt(D) * x / sqrt(|x|^2 + D epsilon) + shift. A further number sqrt(D epsilon) beside x makes that root the
    length of a vector, so the division is `Normalize`. What remains is affine, hence the same before and after the
    pooling: a last `Dense` does it. `epsilon` is torch's default, as FiD's.
    """
    dimension, width = weight.shape
    tokens = Dense(width, dimension + 1, activation_function=None, module_input_name=TOKENS)
    pooled = Dense(dimension + 1, dimension, activation_function=None)
    with torch.no_grad():
        # the means are taken in double precision: they are small differences of large numbers
        wide, high = weight.double(), bias.double()
        tokens.linear.weight.copy_(torch.cat([wide - wide.mean(0), wide.new_zeros(1, width)]))
        tokens.linear.bias.copy_(torch.cat([high - high.mean(), high.new_tensor([math.sqrt(dimension * epsilon)])]))
        pooled.linear.weight.copy_(torch.nn.functional.pad(torch.diag(gain * math.sqrt(dimension)), (0, 1)))
        pooled.linear.bias.copy_(shift)
    return [tokens, Normalize(TOKENS), Pooling(dimension + 1, pooling), pooled]  # type: ignore[arg-type]
