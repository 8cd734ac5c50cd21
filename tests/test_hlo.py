"""What a compiled program computes and sends, read from its text: programs whose costs are known on paper."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.bench import hlo
from r1jax.sharding import make_mesh

ROWS, WIDTH, LAYERS, DEVICES = 64, 32, 5, 8


@pytest.fixture(scope="module")
def mesh():
    return make_mesh("8x1")


def shape(mesh, spec, *sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(mesh, spec))


def costs(f, *args):
    return hlo.count(jax.jit(f).lower(*args).compile().as_text(), DEVICES)


def chain(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def test_a_loop_is_multiplied_out_and_gathers_its_weights_in_each_round(mesh):
    found = costs(chain, shape(mesh, P("fsdp"), ROWS, WIDTH), shape(mesh, P(None, "fsdp"), LAYERS, WIDTH, WIDTH))
    assert found.flops == 2 * ROWS * WIDTH * WIDTH * LAYERS / DEVICES
    assert found.sent == {"all-gather": LAYERS * 7 / 8 * WIDTH * WIDTH * 4}
    assert found.unknown == 0


def test_a_product_summed_over_devices_is_an_all_reduce(mesh):
    found = costs(jnp.matmul, shape(mesh, P(None, "fsdp"), ROWS, WIDTH), shape(mesh, P("fsdp"), WIDTH, WIDTH))
    assert found.flops == 2 * ROWS * WIDTH * WIDTH / DEVICES
    assert found.sent == {"all-reduce": 2 * 7 / 8 * ROWS * WIDTH * 4}


def test_a_gradient_of_which_each_device_keeps_a_part_is_a_reduce_scatter(mesh):
    where = NamedSharding(mesh, P(None, "fsdp"))

    def gradient(x, weights):
        found = jax.grad(lambda w: jnp.sum(chain(x, w)))(weights)
        return jax.lax.with_sharding_constraint(found, where)

    found = costs(gradient, shape(mesh, P("fsdp"), ROWS, WIDTH), shape(mesh, P(None, "fsdp"), LAYERS, WIDTH, WIDTH))
    once = LAYERS * 7 / 8 * WIDTH * WIDTH * 4
    assert found.sent == pytest.approx({"all-gather": 2 * once, "reduce-scatter": once})
    assert found.flops == 3 * 2 * ROWS * WIDTH * WIDTH * LAYERS / DEVICES


def test_results_that_are_only_added_are_reduced_once(mesh):
    def both(x, y, w):
        return x @ w + y @ w

    rows, weights = shape(mesh, P(None, "fsdp"), ROWS, WIDTH), shape(mesh, P("fsdp"), WIDTH, WIDTH)
    assert costs(both, rows, rows, weights).sent == {"all-reduce": 2 * 7 / 8 * ROWS * WIDTH * 4}
    kept = costs(lambda x, y, w: (x @ w, y @ w), rows, rows, weights)
    assert kept.sent == {"all-reduce": 2 * 2 * 7 / 8 * ROWS * WIDTH * 4}


def test_a_loop_of_unknown_length_is_reported(mesh):
    def some(x, n):
        return jax.lax.while_loop(lambda state: state[1] < n, lambda state: (state[0] @ state[0], state[1] + 1), (x, 0))

    found = costs(some, shape(mesh, P(), WIDTH, WIDTH), jax.ShapeDtypeStruct((), jnp.int32))
    assert found.unknown == 1 and found.flops == 2 * WIDTH**3


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups={}", 8),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", 4),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", 2),
    ],
)
def test_every_way_to_write_groups_is_read(groups, size):
    assert hlo.group_size(hlo.Op("x", "f32[4]", "all-gather", f"%y), channel_id=1, {groups}, dims={{0}}"), 8) == size


def test_an_unknown_way_to_write_groups_is_refused():
    with pytest.raises(ValueError, match="groups of all-gather x are written in an unknown way"):
        hlo.group_size(hlo.Op("x", "f32[4]", "all-gather", "%y), replica_groups=everyone"), 8)


def test_bytes_of_shapes():
    assert hlo.count_bytes("(f32[2,3]{1,0}, bf16[4], pred[5], s32[])") == 24 + 8 + 5 + 4
