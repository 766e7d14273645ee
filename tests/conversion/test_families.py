import numpy as np
import pytest

from diffbir_jax.conversion.contents import Contents
from diffbir_jax.conversion.families import FAMILIES, recognise
from diffbir_jax.conversion.files import CheckpointError
from diffbir_jax.conversion.prefixes import select
from tests.conversion import small


@pytest.mark.parametrize("title", small.FAMILIES)
def test_families_are_told_apart(title):
    make, stems = small.FAMILIES[title]
    family = recognise(make())
    assert (family.title, family.stems(None)) == (title, stems)


def test_every_family_is_tested():
    # Networks beside one-step restorers have tests of their own: test_adapted.py and test_features.py.
    others = {"Stable Diffusion 2.1, diffusers", "InvSR's noise predictor", "S3Diff's degradation estimator"}
    others |= {"CLIP's ConvNeXt", "DINOv2"}
    assert {family.title for family in FAMILIES} == {*small.FAMILIES, *others}


def test_others_are_refused_with_a_list():
    keys = [f"backbone.{i}.weight" for i in range(30)]
    with pytest.raises(CheckpointError) as error:
        recognise(keys)
    message = str(error.value)
    assert "known are: DiffBIR v1, all in one; Stable Diffusion 2.1; " in message
    assert "Some of the 30 keys: backbone.0.weight, " in message
    assert message.count("backbone") == 5


@pytest.mark.parametrize(
    "key, title",
    [
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "Stable Diffusion XL"),
        ("unet.add_embedding.linear_1.weight", "Stable Diffusion XL"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "Stable Diffusion 1"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
    ],
)
def test_other_models_of_the_name_are_one_problem(key, title):
    x = np.ones((4, 4), np.float32)
    with pytest.raises(CheckpointError, match=f"^the weights of {title}; DiffBIR is made of"):
        select(Contents({"model.diffusion_model.input_blocks.0.0.weight": x, key: x}))


def test_names():
    one, several = FAMILIES[4], FAMILIES[1]
    assert one.stems("mine", ("swinir_face",)) == ["mine"]
    assert one.stems(None, ("swinir_face",)) == ["swinir_face"]
    assert several.stems("mine") == ["unet_mine", "vae_mine", "text_mine"]
    assert several.stems(None, ("unet_zsnr", "vae_zsnr", "text_zsnr")) == [
        "unet_zsnr",
        "vae_zsnr",
        "text_zsnr",
    ]
    # A published name of another network is no name for this one: the file was renamed.
    assert one.stems(None, ("bsrnet",)) == ["swinir"]
