"""Score every field of a source, channel by channel."""

from collections.abc import Iterator, Mapping

from vfn.data.cache import in_parallel
from vfn.errors import UserError
from vfn.evaluation.pairs import FieldPair, PairSource
from vfn.evaluation.ranges import ChannelRanges
from vfn.evaluation.results import ChannelResult
from vfn.evaluation.stain import Measured, Nuclei, measure


def score_fields(
    source: PairSource, ranges: Mapping[str, ChannelRanges], nuclei: Nuclei
) -> list[ChannelResult]:
    """Measure every field and collect the results of each channel, in the order of `ranges`.

    Raises:
        UserError: a prediction or baseline of another size than its truth.
    """
    results = {name: ChannelResult(name, own) for name, own in ranges.items()}

    def pairs() -> Iterator[FieldPair]:  # read by one thread: a network may make them
        for index in range(len(source)):
            pair = source.pair(index)
            _check_sizes(pair)
            yield pair

    def work(pair: FieldPair) -> tuple[FieldPair, tuple[Measured, ...]]:
        return pair, measure(pair, ranges, nuclei)

    scored = in_parallel(work, pairs(), "scoring", len(source), ahead=1)
    for index, (pair, measured) in enumerate(scored):
        for i, one in enumerate(measured):
            results[pair.channels[i]].add(index, pair, i, one)
    return list(results.values())


def _check_sizes(pair: FieldPair) -> None:
    images = {"prediction": pair.prediction, **pair.baselines}
    for what, image in images.items():
        if image.shape != pair.truth.shape:
            raise UserError(
                f"{pair.field}: {what} has shape {image.shape} but the truth {pair.truth.shape} "
                "(channels, height, width); score images of one size"
            )
