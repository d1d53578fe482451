"""Looking into the attention of any transformers model, under any kernel and without keeping a map."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Look = Callable[..., None]


@contextmanager
def watched(model: PreTrainedModel, look: Look) -> Iterator[None]:
    """Inside, `look(module, query, key, value, mask, options)` is called at each attention of `model`, under any kernel.

    They are what the kernel gets, queries [B, H, T, D], keys and values [B, H or fewer, S, D]. It replaces an entry of a
    global table of transformers, so one thread at a time.
    """
    ours = set(model.modules())
    names = {module.config._attn_implementation for module in ours if isinstance(module, PreTrainedModel)}
    table = ALL_ATTENTION_FUNCTIONS

    def watching(base: Callable | None) -> Callable:
        def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:  # noqa: ANN401
            if module in ours:
                look(module, query, key, value, mask, options)
            kernel = base or sys.modules[type(module).__module__].eager_attention_forward
            return kernel(module, query, key, value, mask, **options)

        return attention

    before = {name: table._local_mapping.get(name) for name in names}
    try:
        for name in names:
            table[name] = watching(table.get(name))
        yield
    finally:
        for name, function in before.items():
            if function is None:
                del table[name]
            else:
                table[name] = function
