"""Text written by a model, token by token."""

import torch
from torch import Tensor

from feedalign_lab.errors import SettingError
from feedalign_lab.language.transformer import Transformer
from feedalign_lab.running import evaluating


@torch.no_grad()
def continue_text(
    model: Transformer,
    prompt: Tensor,
    num_tokens: int,
    *,
    generator: torch.Generator,
    temperature: float = 0.8,
    top_k: int = 50,
) -> Tensor:
    """Draw what comes behind a prompt.

    Args:
        model: The Transformer; of a longer text it sees the last tokens that fit its context.
        prompt: Token numbers, `[T]`, at least one.
        num_tokens: Tokens to draw.
        generator: CPU generator to draw with.
        temperature: What logits are divided by, above 0; small values keep to the most likely.
        top_k: Only the most likely tokens, so many of them, are drawn from.

    Returns:
        The tokens drawn, `[num_tokens]`.

    Raises:
        SettingError: The prompt is empty, or an argument out of range.
    """
    if prompt.numel() == 0:
        raise SettingError("The prompt has no token: give it at least a letter.")
    if not temperature > 0 or top_k < 1:
        raise SettingError(f"The temperature must be above 0 and top_k at least 1, not {temperature} and {top_k}.")
    text = prompt
    with evaluating(model):
        for _ in range(num_tokens):
            logits = model(text[None, -model.size.context :])[0, -1].cpu().float() / temperature
            best, tokens = logits.topk(min(top_k, logits.numel()))
            drawn = tokens[torch.multinomial(best.softmax(0), 1, generator=generator)]
            text = torch.cat([text, drawn.to(text.device)])
    return text[prompt.numel() :]
