"""`fx.load` on an emulated GPU: numbers against the dense float64 reference, checks, launches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.bundle.files import Bundle
from flexdsl.errors import BackendError, BundleError, CaptureError, IndexRangeError
from flexdsl.runtime import bind, bundles, device_plan, executors
from flexdsl.runtime.bundled import Bundled
from flexdsl.runtime.explain import of_gpu
from tests.aot.conftest import IDS, SLOPES, WINDOW, alibi, documents
from tests.aot.emulation import Emulated

DOCUMENTS, ALIBI = documents(), alibi()


def tensors(heads: int = 2, q_len: int = 45, kv_len: int = 45) -> list[torch.Tensor]:
    torch.manual_seed(3)
    sizes = ((2, q_len), (heads, kv_len), (heads, kv_len))
    return [torch.randn(1, h, n, 16).requires_grad_() for h, n in sizes]


def assert_equal_to_the_reference(
    found: torch.Tensor, leaves: list[torch.Tensor], **call: Any
) -> None:
    expected = fx.attention(*leaves[:3], backend="reference", **call)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    gradients = torch.autograd.grad(found.square().sum(), leaves)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for gradient, of_reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, of_reference, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("heads", "q_len", "kv_len", "offset", "window"),
    [(2, 45, 45, 0, 5), (1, 20, 70, 50, 33), (2, 3, 17, 2, 2**30)],
)
def test_one_build_serves_all_lengths_windows_and_offsets(
    ampere: Emulated,
    portable: Bundle,
    heads: int,
    q_len: int,
    kv_len: int,
    offset: int,
    window: int,
) -> None:
    leaves = tensors(heads, q_len, kv_len)
    attention = fx.load(portable.folder, "window", window=window)
    mask = f"q >= kv and q - kv < {window}"
    found = attention(*leaves, q_offset=offset)
    assert_equal_to_the_reference(found, leaves, mask=mask, q_offset=offset)
    assert [launch.code.plan for launch in ampere.launches] == [
        *("closed-form", "none", "closed-form", "closed-form")
    ]
    assert all(launch.stream == 7 for launch in ampere.launches)


def test_the_default_of_a_parameter_is_that_of_the_build(
    ampere: Emulated, portable: Bundle
) -> None:
    leaves = tensors()
    found = fx.load(portable.folder, "window")(*leaves)
    assert_equal_to_the_reference(found, leaves, mask="q >= kv and q - kv < 9")


def test_a_table_needs_no_compiler(ampere: Emulated, portable: Bundle) -> None:
    leaves = tensors()
    found = fx.load(portable.folder, "documents", ids=IDS)(*leaves)
    assert_equal_to_the_reference(found, leaves, mask=DOCUMENTS)
    assert ampere.launches[0].code.plan == "table"


def test_documents_by_offsets_are_a_closed_form_forward(ampere: Emulated, portable: Bundle) -> None:
    leaves = tensors()
    for offsets in ([0, 20, 27, 45], [0, 0, 44, 45]):
        first, stop = fx.stdlib.document_ends(torch.tensor(offsets))
        found = fx.load(portable.folder, "packed")(*leaves, first=first, stop=stop)
        mask = fx.stdlib.document(fx.stdlib.document_ids(offsets=offsets))
        assert_equal_to_the_reference(found, leaves, mask=mask)
    plans = ["closed-form", "none", "closed-form", "table"]
    assert [launch.code.plan for launch in ampere.launches] == plans * 2


def test_learned_tensors_have_gradients(ampere: Emulated, portable: Bundle) -> None:
    leaves = [*tensors(), SLOPES]
    found = fx.load(portable.folder, "slopes")(*leaves[:3], slopes=SLOPES)
    assert_equal_to_the_reference(found, leaves, mask="q >= kv", score=ALIBI)
    plain = SLOPES.detach()  # whose gradient nobody wants now
    found = fx.load(portable.folder, "slopes", slopes=plain)(*leaves[:3])
    assert_equal_to_the_reference(found, leaves[:3], mask="q >= kv", score=ALIBI)


def test_plans_of_the_device_are_made_by_kernels_of_the_bundle(
    ampere: Emulated, portable: Bundle
) -> None:
    variant = portable.variant("documents")
    kernels = Bundled(portable, variant, variant.builds[0])
    program = bind.with_tensors(DOCUMENTS.program, torch.device("cpu"))
    tiles = {code.tile for code in variant.builds[0].kernels if code.plan == "table"}
    for tile in tiles:
        plan = fx.plan(DOCUMENTS, 45, 45, tile=tile, device="cpu")
        for of in (plan, plan.transposed()):
            made, expected = (
                device_plan.make_table(of, program.values, torch.device("cpu"), launch)
                for launch in (kernels.launch_planning, device_plan.launch_compiled)
            )
            rows = len(expected.full_ends)
            assert torch.equal(made.offsets, expected.offsets)
            assert torch.equal(made.full_ends, expected.full_ends)
            runs = int(expected.offsets[rows])
            assert torch.equal(made.starts[:runs], expected.starts[:runs])
            assert torch.equal(made.stops[:runs], expected.stops[:runs])
            assert torch.equal(made.order, expected.order)
    phases = {launch.code.phase for launch in ampere.launches}
    assert phases == {"plan_states", "plan_refine", "plan_counts", "plan_runs"}


def test_attention_takes_a_bundle(ampere: Emulated, portable: Bundle) -> None:
    leaves = tensors()
    mask = fx.parse(WINDOW)
    for bundle in (portable.folder, str(portable.folder), fx.load(portable.folder, "window")):
        found = fx.attention(*leaves, mask=mask, bundle=bundle)
        assert_equal_to_the_reference(found, leaves, mask=mask)
    with pytest.raises(fx.FlexdslError, match="bundle is given"):
        fx.attention(*leaves, mask=mask, bundle=portable.folder, backend="cpu")
    with pytest.raises(BundleError, match="no bundle has the kernel of mask") as miss:
        fx.attention(*leaves, mask="q >= kv and kv < 7", bundle=portable.folder)
    assert "cuda:80, fp32, head dimensions 16/16" in str(miss.value)
    with pytest.raises(BundleError, match="head dimensions 8/8"):
        fx.attention(*(x[..., :8] for x in leaves), mask=mask, bundle=portable.folder)


def test_bundles_of_the_environment(
    ampere: Emulated, portable: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, _, v = tensors()
    lengths = bind.Lengths(1, 2, 45, 45, 0)
    known = bind.bind(fx.parse(WINDOW).program, None, lengths, (0, 0))
    other = bind.bind(fx.parse("q > kv").program, None, lengths, (0, 0))
    monkeypatch.setenv("FLEXDSL_BUNDLES", str(portable.folder))
    found = executors._kernels("auto", known, q, v)
    assert isinstance(found, Bundled) and found.variant.name == "window"
    told = "\n".join(of_gpu("auto", 80, known, 1.0, q, q, v))
    assert f"kernels of the bundle {portable.folder}" in told and "window for cuda:80" in told
    with pytest.warns(fx.errors.BundleWarning, match="q > kv.*: it is compiled"):
        assert not isinstance(executors._kernels("auto", other, q, v), Bundled)
    monkeypatch.setenv("FLEXDSL_NO_JIT", "1")
    with pytest.raises(BundleError, match="no bundle has the kernel of mask mod"):
        executors._kernels("auto", other, q, v)
    with pytest.raises(BundleError, match="'triton' compiles"):
        executors._kernels("triton", known, q, v)


def test_values_outside_of_the_proof(ampere: Emulated, portable: Bundle) -> None:
    leaves = tensors()
    attention = fx.load(portable.folder, "window")
    with pytest.raises(BundleError, match=r"window is 0, .* proven for 1 to 1073741824"):
        attention(*leaves, window=0)
    with pytest.raises(BundleError, match="positions is 1048577"):
        attention(*leaves, q_offset=2**20 - 44)
    assert not ampere.launches


def test_values_that_do_not_fit(ampere: Emulated, portable: Bundle) -> None:
    leaves = tensors()
    by_ids, by_slopes = (fx.load(portable.folder, n) for n in ("documents", "slopes"))
    with pytest.raises(CaptureError, match="needs the tensor ids"):
        by_ids(*leaves)
    with pytest.raises(CaptureError, match=r"i64 of 1 dimensions.*i32 of 1"):
        by_ids.bind(ids=IDS.long())
    with pytest.raises(CaptureError, match=r"f32 of 2 dimensions.*f32 of 1"):
        fx.load(portable.folder, "slopes", slopes=torch.ones(2, 2))
    with pytest.raises(CaptureError, match="nothing that is named windows"):
        by_ids.bind(windows=3)
    with pytest.raises(CaptureError, match=r"is a whole number, not 2\.5"):
        fx.load(portable.folder, "window", window=2.5)
    with pytest.raises(CaptureError, match="is a number, not Tensor"):
        fx.load(portable.folder, "window", window=IDS)
    with pytest.raises(IndexRangeError):
        by_slopes(*leaves, slopes=torch.ones(1))
    with pytest.raises(IndexRangeError):
        by_ids(*leaves, ids=IDS[:40])
    with pytest.raises(BundleError, match="has no variant 'windows'"):
        fx.load(portable.folder, "windows")
    with pytest.raises(BundleError, match="5 variants: window, documents, packed, slopes, waves"):
        fx.load(portable.folder)
    assert not ampere.launches


def test_another_gpu(portable: Bundle, hopper_gpu: Emulated) -> None:
    with pytest.raises(BundleError, match="for cuda:90, fp32") as wrong:
        fx.load(portable.folder, "window")(*tensors())
    assert "there is window for cuda:80, fp32, head dimensions 16/16" in str(wrong.value)
    assert not hopper_gpu.launches


def test_tensors_on_the_cpu(portable: Bundle) -> None:
    with pytest.raises(BackendError, match="cannot run on tensors on cpu"):
        fx.load(portable.folder, "window")(*tensors())


def test_what_a_hopper_gpu_is_told(hopper: Bundle, hopper_gpu: Emulated) -> None:
    """Words and tensor maps of a call, as the driver gets them."""
    sizes = (2, 6, 300), (2, 2, 500)
    q, k, v = (torch.zeros(*s, 128, dtype=torch.bfloat16) for s in (sizes[0], sizes[1], sizes[1]))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = fx.load(hopper.folder, window=77)(*leaves, q_offset=200)
    torch.autograd.grad(out.sum(), leaves)
    forward, rows, backward, sums = hopper_gpu.launches
    assert forward.threads == 384
    assert forward.programs == backward.programs == hopper_gpu.multiprocessors(q.device)
    assert sums.programs == 5 * 2 * 6
    assert rows.programs == 10 * 2 * 6
    told = {
        p.argument.name: v for p, v in zip(forward.code.parameters, forward.values, strict=True)
    }
    assert told["q_len"] == [300] and told["kv_len"] == [500] and told["q_offset"] == [200]
    assert told["heads"] == [6] and told["group"] == [3] and told["q_tiles"] == [3]
    assert told["window"] == [77]
    assert told["scale"][0] == pytest.approx(128**-0.5 * 1.4426950408889634)
    box, address, shape, strides = hopper_gpu.maps[0]
    assert address == q.data_ptr() and shape == [2, 6, 300, 128]
    assert strides == [6 * 300 * 128, 300 * 128, 128, 1]
    assert (box.element, box.itemsize, box.swizzle, box.block) == (9, 2, 3, (1, 1, 64, 64))
    assert told["query_128"][1:] == [*shape, *strides]


def test_a_bundle_of_the_forward_pass_alone(
    portable: Bundle, ampere: Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = leaves = tensors()
    attention = fx.load(portable.folder, "window")
    out = attention(q, k, v)
    build = attention.variant.builds[0]
    monkeypatch.setitem(build.__dict__, "kernels", build.kernels[:1])
    with pytest.raises(BundleError, match="built without its backward pass"):
        torch.autograd.grad(out.sum(), leaves)


def test_a_bundle_that_is_not_open(portable: Bundle, ampere: Emulated) -> None:
    lengths = bind.Lengths(1, 2, 45, 45, 0)
    bound = bind.bind(fx.parse(WINDOW).program, None, lengths, (0, 0))
    with pytest.raises(BundleError, match="is not open in this process"):
        bundles.of_backend("bundle:" + "0" * 64, bound, *tensors()[:2])
