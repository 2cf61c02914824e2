"""The anatomy as a tree on the terminal: what there is, and what share of the model each part is."""

from __future__ import annotations

from rich.console import Console
from rich.tree import Tree

from compress_explain.model.anatomy import Anatomy
from compress_explain.terminal.console import output


def print_anatomy(anatomy: Anatomy, console: Console | None = None) -> None:
    """Print every layer, sublayer, group of components and linear."""
    tree = Tree(
        f"[bold]{anatomy.model_class}[/] ({anatomy.family}): {anatomy.parameters:,} parameters, "
        f"{_flops(anatomy.flops)} in its layers for one example of {anatomy.tokens} tokens"
    )
    for layer in anatomy.layers.values():
        branch = tree.add(f"[bold]{layer.name}[/]  {_shares(anatomy, layer.parameters, layer.flops)}")
        for name in layer.sublayers:
            sublayer = anatomy.sublayers[name]
            twig = branch.add(f"{name}  {_shares(anatomy, sublayer.parameters, sublayer.flops)}")
            for group in (anatomy.groups[each] for each in sublayer.groups):
                twig.add(
                    f"{group.name}.0 … {group.count - 1}  {group.count:,} {group.kind.replace('_', ' ')}s, each "
                    f"{group.parameters:,} parameters, {_flops(group.flops)}"
                )
            for linear in (anatomy.linears[each] for each in sublayer.linears):
                twig.add(f"[dim]{linear.name}  {linear.inputs} → {linear.outputs}, {linear.parameters:,} parameters[/]")
    elsewhere = anatomy.parameters_elsewhere
    branch = tree.add(
        f"elsewhere (embeddings, final norms, task head)  {elsewhere:,} parameters, {elsewhere / anatomy.parameters:.1%}"
    )
    if anatomy.embedding is not None:
        tokens = anatomy.embedding
        branch.add(
            f"{tokens.name}.0 … {tokens.count - 1}  {tokens.count:,} tokens, each {tokens.parameters:,} parameters"
        )
    (console or output()).print(tree, highlight=False, soft_wrap=True)


def _shares(anatomy: Anatomy, parameters: int, flops: int) -> str:
    return (
        f"{parameters:,} parameters ({parameters / anatomy.parameters:.1%}), {flops / anatomy.flops:.1%} of layer FLOPs"
    )


def _flops(flops: int) -> str:
    """
    >>> _flops(4_792_832)
    '4.79 MFLOPs'
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}FLOPs"
    return f"{flops} FLOPs"
