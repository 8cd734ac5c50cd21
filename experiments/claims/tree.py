"""Searches over the steps of a completion: Monte Carlo tree search with a value model, and without roll-outs.

A node is the beginning of a completion. Its children are this beginning with one step more, as the policy samples it.
The value model gives every new node the probability that the completion will be right, and each node keeps the mean of
its own value and the values below it. Each descent starts at the root and goes from child to child, as PUCT chooses.
It ends at the first node that is allowed to get new children.

Source: Silver et al. 2018 (AlphaZero), for PUCT and for a value in place of roll-outs
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

EXPLORE = 0.625  # c of PUCT: AlphaZero's 1.25 is for values in -1..1, and those here lie in 0..1

Step = tuple[tuple[int, ...], bool]  # (sampled tokens, whether the completion ends with them)
# Indices of trees, tokens of a node of each -> steps that the policy samples after each node.
Write = Callable[[list[int], list[tuple[int, ...]]], list[list[Step]]]
# Indices of trees, tokens of a node of each -> the values of the nodes, in 0..1.
Appraise = Callable[[list[int], list[tuple[int, ...]]], Sequence[float]]


@dataclasses.dataclass
class Node:
    """The beginning of a completion.

    Attributes:
        tokens: the tokens of the completion so far.
        above: the node that this node extends; None for the root.
        ended: whether the completion is complete.
        times: how often the policy sampled this node's last step after `above`.
        extended: how often the policy was asked for steps after this node.
        total: sum of the values of this node and of all nodes below it.
        visits: number of values in `total`.
        below: the children of this node. The key of a child is its last step.
    """

    tokens: tuple[int, ...] = ()
    above: Node | None = None
    ended: bool = False
    times: int = 1
    extended: int = 0
    total: float = 0.0
    visits: int = 0
    below: dict[tuple[int, ...], Node] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Tree:
    """The search of one question.

    Attributes:
        explore: c of `puct`; 0 always follows the child with the highest mean value.
        root: the empty completion.
        limit: how often a node may be extended. Rises by one when no node is left to extend.
        spent: sampled tokens so far.
        found: the completions found so far, each (tokens spent when it was found, its tokens, its value).
    """

    explore: float = EXPLORE
    root: Node = dataclasses.field(default_factory=Node)
    limit: int = 1
    spent: int = 0
    found: list[tuple[int, tuple[int, ...], float]] = dataclasses.field(default_factory=list)


def is_closed(node: Node, limit: int) -> bool:
    """Returns whether neither the node nor a node below it may be extended. limit: see `Tree`."""
    return node.ended or (node.extended >= limit and all(is_closed(child, limit) for child in node.below.values()))


def puct(node: Node, parent: Node, explore: float) -> float:
    """Returns Q + c·P·√N / (1 + n): the mean value Q of a node, and a term that asks for nodes visited less.

    Of all steps sampled after `parent`, P is the share that led to the node. N is the number of visits of `parent`, n
    the number of visits of the node, and c is `explore`.
    """
    share = node.times / sum(child.times for child in parent.below.values())
    return node.total / node.visits + explore * share * math.sqrt(parent.visits) / (1 + node.visits)


def select(tree: Tree) -> Node:
    """Returns the node to extend next. Raises the tree's limit if no node may be extended."""
    while is_closed(tree.root, tree.limit):
        tree.limit += 1
    node = tree.root
    while node.extended >= tree.limit:
        parent = node
        node = max(
            (child for child in node.below.values() if not is_closed(child, tree.limit)),
            key=lambda child: puct(child, parent, tree.explore),
        )
    return node


def extend(tree: Tree, node: Node, steps: Sequence[Step]) -> list[Node]:
    """Adds sampled steps below a node, and counts their tokens. Returns the new nodes; equal steps are one node."""
    new = []
    node.extended += 1
    for tokens, ended in steps:
        tree.spent += len(tokens)
        if tokens in node.below:
            node.below[tokens].times += 1
        else:
            node.below[tokens] = Node(node.tokens + tokens, node, ended)
            new.append(node.below[tokens])
    return new


def back_up(tree: Tree, node: Node, value: float) -> None:
    """Gives a new node its value, and adds the value to all nodes above it."""
    if node.ended:
        tree.found.append((tree.spent, node.tokens, value))
    above: Node | None = node
    while above is not None:
        above.visits += 1
        above.total += value
        above = above.above


def search(trees: list[Tree], write: Write, appraise: Appraise, budget: int, together: int) -> None:
    """Searches until every tree, one for each question, has spent its budget of sampled tokens.

    The last steps of a question may go beyond the budget; `Tree.found` says what was found within it.

    Args:
        trees: the trees, which the search changes.
        write: samples steps after nodes.
        appraise: returns the values of nodes.
        budget: tokens to sample for each question. Tokens that the policy reads again are not counted.
        together: number of trees that are extended at a time, by one node each.
    """
    while going := [i for i in range(len(trees)) if trees[i].spent < budget][:together]:
        leaves = [select(trees[i]) for i in going]
        sampled = write(going, [leaf.tokens for leaf in leaves])
        new = [
            (i, node)
            for i, leaf, steps in zip(going, leaves, sampled, strict=True)
            for node in extend(trees[i], leaf, steps)
        ]
        values = appraise([i for i, _ in new], [node.tokens for _, node in new])
        for (i, node), value in zip(new, values, strict=True):
            back_up(trees[i], node, value)
