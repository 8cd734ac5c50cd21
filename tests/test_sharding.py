"""Meshes, the parameter table, and rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax import sharding
from r1jax.model import transformer
from r1jax.model.cache import empty_cache
from r1jax.sharding import (
    abstract,
    decode_specs,
    fetch,
    fit,
    held_rows,
    held_shards,
    make_mesh,
    param_specs,
    place,
    row_shards,
    shard_held_rows,
    shard_rows,
)
from support.tiny import CONFIG


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda: transformer.init(CONFIG, jax.random.key(0)))
    return jax.tree.map(lambda x: np.arange(x.size, dtype=x.dtype).reshape(x.shape), shapes)


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ("auto", (8, 1, 1, 1)),
        ("8x1", (1, 8, 1, 1)),
        ("4x2", (1, 4, 2, 1)),
        ("data:2,fsdp:2,tensor:2,expert:1", (2, 2, 2, 1)),
        ("expert:2,fsdp:4", (1, 4, 1, 2)),
    ],
)
def test_a_mesh_spec_names_the_sizes_of_four_auto_axes(spec, sizes):
    mesh = make_mesh(spec)
    assert tuple(mesh.shape[axis] for axis in ("data", "fsdp", "tensor", "expert")) == sizes
    assert mesh.axis_types == (AxisType.Auto,) * 4


@pytest.mark.parametrize(
    "spec",
    [
        "8y8",
        "8",
        "x8",
        "0x4",
        "4x2x1",
        "",
        "fsdp:2,fsdp:4",
        "model:8",
        "fsdp:two",
        "fsdp",
        "4X2",
        "٤x٢",
    ],
)
def test_an_unreadable_mesh_is_refused_with_the_forms_to_type(spec):
    with pytest.raises(ValueError) as error:
        make_mesh(spec)
    assert str(error.value).startswith(f"--mesh={spec} is not a mesh")
    assert "--mesh=8x8" in str(error.value)


def test_too_few_devices_is_an_error_that_says_what_to_type():
    with pytest.raises(ValueError) as error:
        make_mesh("8x8", jax.devices()[:1])
    assert str(error.value) == (
        "--mesh=8x8 needs 64 devices; this process sees 1 (cpu). On one device use --mesh=1x1, "
        "or on CPU set XLA_FLAGS=--xla_force_host_platform_device_count=64"
    )
    with pytest.raises(ValueError, match=r"sees 8 .* use --mesh=8x1"):
        make_mesh("8x8")


def test_a_mesh_of_fewer_devices_takes_the_first_and_says_so(caplog):
    mesh = make_mesh("2x1")
    assert list(mesh.devices.flat) == jax.devices()[:2]
    assert caplog.messages == ["--mesh=2x1 uses the first 2 of 8 devices"]


def test_every_parameter_of_the_dense_model_has_its_place(params):
    layer = {
        "attention": {
            "q": {"kernel": P(None, "fsdp", "tensor"), "bias": P(None, "tensor")},
            "k": {"kernel": P(None, "fsdp", "tensor"), "bias": P(None, "tensor")},
            "v": {"kernel": P(None, "fsdp", "tensor"), "bias": P(None, "tensor")},
            "o": {"kernel": P(None, "tensor", None, "fsdp")},
            "q_norm": {"scale": P()},
            "k_norm": {"scale": P()},
        },
        "mlp": {
            "gate": {"kernel": P(None, "fsdp", "tensor")},
            "up": {"kernel": P(None, "fsdp", "tensor")},
            "down": {"kernel": P(None, "tensor", "fsdp")},
        },
        "attention_norm": {"scale": P()},
        "mlp_norm": {"scale": P()},
    }
    assert param_specs(params, make_mesh("4x2")) == {
        "embed": {"embedding": P("tensor", "fsdp")},
        "layers": [layer],
        "final_norm": {"scale": P()},
        "unembed": {"kernel": P("fsdp", "tensor")},
    }


def test_experts_lie_over_the_expert_axis():
    # [L, X, D, F] and [L, X, F, D]
    tree = {
        "layers": [
            {
                "mlp": {
                    "experts": {
                        "gate": {"kernel": np.zeros((2, 4, 8, 16))},
                        "down": {"kernel": np.zeros((2, 4, 16, 8))},
                    }
                }
            }
        ]
    }
    specs = param_specs(tree, make_mesh("fsdp:2,tensor:2,expert:2"))["layers"][0]["mlp"]["experts"]
    assert specs["gate"]["kernel"] == P(None, "expert", "fsdp", "tensor")
    assert specs["down"]["kernel"] == P(None, "expert", "tensor", "fsdp")


def test_moments_lie_where_their_parameters_lie_and_counters_everywhere(params):
    mesh = make_mesh("4x2")
    placed = place(params, mesh)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = place(optimizer.init(jax.tree.map(jnp.asarray, params)), mesh)

    def where(tree):
        return jax.tree.map(lambda x: x.sharding, tree)

    adam = state[1][0]
    assert where(adam.mu) == where(adam.nu) == where(placed)
    assert adam.count.sharding == NamedSharding(mesh, P())
    # q [2, 16, 4, 8] over fsdp=4, tensor=2: each device holds [2, 4, 2, 8].
    q = placed["layers"][0]["attention"]["q"]["kernel"]
    assert q.addressable_shards[0].data.shape == (2, 4, 2, 8)
    np.testing.assert_array_equal(q, params["layers"][0]["attention"]["q"]["kernel"])


def test_an_axis_that_does_not_divide_leaves_the_dimension_whole_with_one_notice(caplog):
    sharding.warn_unsharded.cache_clear()
    mesh = make_mesh("fsdp:2,tensor:4")
    kernel = {"kernel": np.zeros((2, 16, 6, 8))}  # 6 heads over tensor=4
    tree = {
        "layers": [{"attention": {"q": kernel, "k": kernel}}],
        "moments": {"attention": {"q": kernel}},
    }
    specs = param_specs(tree, mesh)
    assert specs["layers"][0]["attention"]["q"]["kernel"] == P(None, "fsdp", None)
    assert caplog.messages == ["--mesh: tensor=4 does not divide a dimension of 6, which stays whole"]


def test_a_parameter_without_a_rule_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"no sharding rule matches layers/0/mystery/kernel \[2, 3\]"):
        param_specs({"layers": [{"mystery": {"kernel": np.zeros((2, 3))}}]}, make_mesh("8x1"))


def test_the_first_matching_rule_wins():
    rules = ((r"kernel$", P("tensor")), (r"special/kernel$", P("fsdp")))
    assert param_specs({"special": {"kernel": np.zeros((4, 4))}}, make_mesh("4x2"), rules) == {
        "special": {"kernel": P("tensor")}
    }


def test_fit_counts_joined_axes_by_their_product():
    mesh = make_mesh("data:2,fsdp:2,tensor:2")
    assert fit(P(("data", "fsdp"), "tensor"), (8, 2), mesh) == P(("data", "fsdp"), "tensor")
    assert fit(P(("data", "fsdp"), "tensor"), (6, 2), mesh) == P(None, "tensor")


def test_abstract_has_the_shapes_and_places_of_what_place_returns(params):
    mesh = make_mesh("4x2")
    shapes = jax.eval_shape(lambda: params)
    for want, got in zip(jax.tree.leaves(place(params, mesh)), jax.tree.leaves(abstract(shapes, mesh)), strict=True):
        assert (want.shape, want.dtype, want.sharding) == (got.shape, got.dtype, got.sharding)


def test_weights_for_decoding_are_whole_over_the_row_axes(params):
    mesh = make_mesh("4x2")
    weights = jax.eval_shape(lambda: {**params, "layers": transformer.divide_layers(params)})
    specs = jax.tree.map(lambda s: s.spec, decode_specs(weights, mesh))
    assert specs["embed"]["embedding"] == P("tensor", None)
    assert specs["layers"][1]["attention"]["q"]["kernel"] == P(None, "tensor")  # [D, H, E], no layer axis
    assert specs["layers"][1]["attention"]["o"]["kernel"] == P("tensor", None, None)  # [H, E, D]
    assert specs["layers"][1]["attention_norm"]["scale"] == P()


def test_rows_go_to_the_mesh_and_come_back_in_order():
    mesh = make_mesh("data:2,fsdp:2,tensor:2")
    assert row_shards(mesh) == 4 and held_shards(mesh) == [0, 1, 2, 3]
    rows = {
        "tokens": np.arange(24, dtype=np.int32).reshape(8, 3),
        "weight": np.linspace(0, 1, 8, dtype=np.float32),
    }
    placed = shard_rows(rows, mesh)
    assert placed["tokens"].sharding == NamedSharding(mesh, P(("data", "fsdp", "expert")))
    assert placed["tokens"].addressable_shards[0].data.shape == (2, 3)
    for name in rows:
        np.testing.assert_array_equal(held_rows(placed[name]), rows[name])
        np.testing.assert_array_equal(fetch(placed[name]), rows[name])
        np.testing.assert_array_equal(fetch(shard_held_rows(rows[name], mesh)), rows[name])
    turned = jax.jit(jnp.transpose)(placed["tokens"])  # rows on axis 1
    np.testing.assert_array_equal(held_rows(turned, axis=1), rows["tokens"].T)


def test_the_cache_lies_over_rows_and_key_heads():
    mesh = make_mesh("4x2")
    k, v = empty_cache(CONFIG, 8, 5, mesh, jnp.float32)
    assert (k.shape, v.shape) == ((8, 2, 8, 5), (8, 2, 5, 8))
    assert k.sharding == v.sharding == NamedSharding(mesh, P(("data", "fsdp", "expert"), "tensor"))
    assert not np.asarray(k).any() and not np.asarray(v).any()
