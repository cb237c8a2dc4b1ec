"""Training clips per second: our input pipeline against others, its storages, its processes.

    python -m benchmarks.input_pipeline [--compare peers storages processes quality]
        [--dmvr=DIR] [--videos=DIR] [--rounds=5]

`peers`: on the same records and the same cores,
    ours       data_pipelines.pipeline.train_batches
    whole      the same from records without restart markers, so that frames are decoded as a whole
    dmvr       a BaseVideoDatasetFactory, modalities as in DMVR's own HMDB example (needs --dmvr, a
               checkout of google-deepmind/dmvr, and TensorFlow)
    pyav       the MP4 files instead of records: seek, decode, pick, crop and resize, clip by clip
               on a thread pool, as loaders that call decord or torchcodec do
    limit      nothing but the JPEG decoding of the sampled frames, from memory, on a thread pool
    limit cut  the same of frames already cut to what the crop shows: the cheapest decoding that
               gives the crop
    fancy      as limit with interpolated instead of repeated colour
    limit tf   as fancy by TensorFlow's decode_and_crop_jpeg, which decodes only what the crop shows
`storages`: the same videos, encoded with short side 320 as x264 does by default, in every storage,
    and decoded as `pyav` does; bytes are of records and of what they link to
`processes`: JPEGs by threads of one process and by several processes, of as many threads in all as
    there are cores, then of one thread each; `parent` is the time that a clip takes of the process
    that trains
`quality`: JPEG quality against size, time of decoding and PSNR of the source's frames

The sides take turns within every round; printed are medians over the rounds and ratios to the
first. Clips per second of processor time, all processes together, barely depend on what else the
machine is doing.
"""

import argparse
from collections.abc import Callable, Iterator
import concurrent.futures
import dataclasses
import functools
import itertools
import os
from pathlib import Path
import re
import shutil
import statistics
import sys
import tempfile
import time
from unittest import mock

import av
import cv2
import numpy as np
import simplejpeg

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from data_pipelines import pipeline  # noqa: E402
from data_pipelines.annotations import Annotations, Clip  # noqa: E402
from data_pipelines.clip import crops, decode, frame_sampling, jpeg_cut  # noqa: E402
from data_pipelines.conversion import jpeg, shard  # noqa: E402
from data_pipelines.conversion.dataset import convert  # noqa: E402
from data_pipelines.conversion.options import Options  # noqa: E402
from data_pipelines.cores import available_cores  # noqa: E402
from data_pipelines.datasets.base import TrainingSpec  # noqa: E402
from data_pipelines.datasets.dmvr import import_dmvr  # noqa: E402
from data_pipelines.datasets.records import RecordDataset  # noqa: E402
from data_pipelines.options import ClipSize, InputOptions, OrderOptions, Source  # noqa: E402
from data_pipelines.storage import indexing  # noqa: E402
from data_pipelines.storage.record_index import build_index, save_index  # noqa: E402
from data_pipelines.synthetic import layers  # noqa: E402
from data_pipelines.videos import mp4, video_file  # noqa: E402
from data_pipelines.workers import scratch  # noqa: E402

BATCH_SIZE = 16
WARM_UP_CLIPS = 6 * BATCH_SIZE
CORES = available_cores()
TICK = os.sysconf('SC_CLK_TCK')  # per second
STORAGES = {
    'jpeg': {},
    'h264': {'storage': 'h264'},
    'h264 gop 8': {'storage': 'h264', 'gop': 8},
    'link': {'storage': 'link'},
}
QUALITIES = (75, 85, 90, 95)


@dataclasses.dataclass(frozen=True)
class Case:
    """The crop, the short side before it, in pixels; frames of a clip, and their step."""

    crop_size: int
    short_side: tuple[int, int]
    reduced: bool = False
    num_frames: int = 16
    stride: int = 4

    def __str__(self) -> str:
        reduced = ', DCT at half size' if self.reduced else ''
        low, high = self.short_side
        return (
            f'{self.num_frames} frames at stride {self.stride}, short side {low} to {high}, '
            f'crop {self.crop_size}{reduced}'
        )


LARGE = Case(224, (256, 320), num_frames=32, stride=3)


def video_files(root: Path, videos: Path | None) -> list[Path]:
    """The MP4 files of a directory; None: synthetic ones of short side 256."""
    if videos is not None:
        return sorted(videos.glob('*.mp4'))
    files = [root / 'videos' / f'{number:02d}.mp4' for number in range(24)]
    with concurrent.futures.ProcessPoolExecutor(CORES) as pool:
        list(pool.map(functools.partial(render_video, short_side=256), files, range(24)))
    return files


def make_data(root: Path, files: list[Path], short_side: int) -> tuple[Source, Source, list[Path]]:
    """Records of short side `short_side`, the same without restart markers, and `files`."""
    clips = tuple(Clip(str(path), path.name, (number % 2,)) for number, path in enumerate(files))
    annotations = Annotations(classes=('even', 'odd'), splits={'train': clips})
    directory, plain = root / f'records{short_side}', root / f'records{short_side}_plain'
    convert(annotations, directory, Options(short_side=short_side, shards=4))
    if not plain.exists():
        convert_without_markers(clips, short_side, directory, plain)
    return *(Source(path, 'benchmark', 'train') for path in (directory, plain)), files


def convert_without_markers(
    clips: tuple[Clip, ...], short_side: int, like: Path, directory: Path
) -> None:
    """The records of the directory `like` in one shard, in `directory`, complete or not at all."""
    with tempfile.TemporaryDirectory(dir=like.parent) as temporary:
        with mock.patch.object(jpeg, '_restart_interval', lambda width: 0):
            shard.convert_shard(
                Path(temporary, 'train-00000-of-00001'),
                list(clips),
                dict(enumerate(('even', 'odd'))),
                Options(short_side=short_side),
            )
        index = build_index(temporary, 'train')
        save_index(temporary, 'train', index)
        indexing.write_frame_index(temporary, 'train', index, threads=CORES)
        shutil.copy(like / 'dataset.json', temporary)
        shutil.copytree(temporary, directory)


def render_video(path: Path, seed: int, short_side: int) -> None:
    """10 s at 25 Hz, 4:3, textured shapes that move; what is there already is kept."""
    if path.exists():
        return
    config = layers.SceneConfig(
        short_side=(short_side, short_side),
        aspect_ratios=((4, 3),),
        frame_rates=('25',),
        seconds=(10.0, 10.0),
        background_texture=(30.0, 50.0),
        background_cell=(0.02, 0.05),
        texture=40.0,
        background_drift=(0.2, 0.5),
    )
    scene = layers.draw_scene(
        np.random.default_rng(seed),
        shapes=('star', 'ring'),
        variable='x',
        path='forward',
        distractor_shapes=('square', 'disc'),
        config=config,
    )
    mp4.write_video(path, layers.render(scene), scene.frame_rate)


# The sides. Each yields the number of clips that it made, for ever.


def ours(
    source: Source, case: Case, threads: int = CORES, processes: int | None = 0
) -> Iterator[int]:
    options = InputOptions(
        case.short_side,
        num_threads=threads,
        num_processes=processes,
        reduced_decoding=case.reduced,
    )
    batches = pipeline.train_batches(
        [dataclasses.replace(source, stride=case.stride)],
        ClipSize(case.num_frames, case.crop_size),
        OrderOptions(batch_size=BATCH_SIZE),
        options,
    )
    with batches:
        for batch in batches:
            yield len(batch['video'])


def dmvr(source: Source, case: Case, threads: int = CORES) -> Iterator[int]:
    """Its short side is fixed: the middle of ours. It shuffles as its defaults say."""
    from dmvr import modalities, video_dataset
    import tensorflow as tf

    class Factory(video_dataset.BaseVideoDatasetFactory):
        def _build(self):
            modalities.add_image(
                self.parser_builder,
                self.sampler_builder,
                self.decoder_builder,
                self.preprocessor_builder,
                self.postprocessor_builder,
                is_training=True,
                num_frames=case.num_frames,
                stride=case.stride,
                min_resize=sum(case.short_side) // 2,
                crop_size=case.crop_size,
            )
            modalities.add_label(
                self.parser_builder, self.decoder_builder, self.preprocessor_builder, num_classes=2
            )

    shards = sorted(str(path) for path in Path(source.path).glob('train-*-of-*'))
    dataset = (
        Factory(shards).configure().tune(shuffle_buffer=16).make_dataset(batch_size=BATCH_SIZE)
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    for batch in dataset.with_options(options):
        yield len(batch['image'])


def pyav(files: list[Path], case: Case, threads: int = CORES) -> Iterator[int]:
    rng = np.random.default_rng(0)

    def load(number: int) -> None:
        out = np.empty((case.num_frames, case.crop_size, case.crop_size, 3), np.uint8)
        with av.open(str(files[number % len(files)])) as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = 'SLICE', 1
            rate = float(stream.average_rate)
            numbers = frame_sampling.random_strided_frames(
                rng, stream.frames, case.num_frames, case.num_frames * case.stride
            )
            window = crops.random_window(
                rng, stream.height, stream.width, case.short_side, case.crop_size
            )
            container.seek(int(numbers[0] / rate / stream.time_base), stream=stream)
            wanted, place = numbers.tolist(), 0
            for frame in container.decode(stream):
                if round(frame.pts * stream.time_base * rate) < wanted[place]:
                    continue
                image = frame.to_ndarray(format='rgb24')
                part = image[
                    window.top : window.top + window.height,
                    window.left : window.left + window.width,
                ]
                cv2.resize(part, (case.crop_size, case.crop_size), dst=out[place])
                place += 1
                if place == case.num_frames:
                    break

    yield from _on_threads(load, threads)


def bare_decode(
    source: Source, case: Case, threads: int = CORES, box: bool = True
) -> Iterator[int]:
    yield from _decode_all(
        [
            [
                (frame, decode_options(case, size, window) | dict(fastupsample=box))
                for frame in encoded
            ]
            for encoded, size, window in sampled_clips(source, case)
        ],
        threads,
    )


def bare_decode_cut(source: Source, case: Case, threads: int = CORES) -> Iterator[int]:
    clips = []
    for encoded, size, window in sampled_clips(source, case):
        cut = jpeg_cut.cut(encoded, size, window)
        sizes = [(count * cut.height, cut.part.width) for _, count in cut.jpegs]
        options = [decode_options(case, size, window) | dict(fastupsample=True) for size in sizes]
        clips.append([(jpeg, own) for (jpeg, _), own in zip(cut.jpegs, options)])
    yield from _decode_all(clips, threads, reuse=3 * 2 * jpeg_cut._MAX_PIXELS)


def decode_options(case: Case, size: tuple[int, int], window: crops.Window) -> dict[str, int]:
    """How simplejpeg is to decode an image of this size, of which the window matters."""
    reduction = decode._reduction((window.height, window.width), (case.crop_size, case.crop_size))
    if not case.reduced or reduction < 2:
        return {}
    return dict(min_height=-(-size[0] // 2), min_width=-(-size[1] // 2), min_factor=2)


def _decode_all(
    clips: list[list[tuple[bytes, dict]]], threads: int, reuse: int = 0
) -> Iterator[int]:
    """Each clip: JPEGs and how they are decoded.

    `reuse`: bytes of memory used again and again; 0: always new.
    """

    def load(number: int) -> None:
        buffer = scratch('pixels', reuse) if reuse else None
        for image, options in clips[number % len(clips)]:
            simplejpeg.decode_jpeg(image, buffer=buffer, **options)

    yield from _on_threads(load, threads)


def bare_decode_tf(source: Source, case: Case, threads: int = CORES) -> Iterator[int]:
    import tensorflow as tf

    clips = sampled_clips(source, case)
    encoded = tf.constant([frames for frames, _, _ in clips])
    windows = tf.constant([window for _, _, window in clips], tf.int32)

    def load(encoded, window):
        return tf.map_fn(
            lambda frame: tf.image.decode_and_crop_jpeg(frame, window),
            encoded,
            fn_output_signature=tf.uint8,
        )

    dataset = tf.data.Dataset.from_tensor_slices((encoded, windows)).repeat()
    dataset = dataset.map(load, num_parallel_calls=threads)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    for _ in dataset.with_options(options):
        yield 1


def sampled_clips(
    source: Source, case: Case
) -> list[tuple[list[bytes], tuple[int, int], crops.Window]]:
    """Of every record: frames of a clip, their (height, width), the window of the crop."""
    dataset, rng, clips = open_records(source, case), np.random.default_rng(0), []
    for record in range(dataset.num_records):
        clip = dataset.load(record)
        numbers = frame_sampling.random_strided_frames(
            rng, len(clip.frames), case.num_frames, case.num_frames * case.stride
        )
        numbers = numbers.tolist()
        stored = clip.frames.fetch(numbers)
        size = decode.frame_size(stored, numbers[0])
        window = crops.random_window(rng, *size, case.short_side, case.crop_size)
        clips.append(([bytes(stored[number]) for number in numbers], size, window))
    return clips


def open_records(source: Source, case: Case) -> RecordDataset:
    size, options = ClipSize(case.num_frames, case.crop_size), InputOptions(case.short_side)
    return RecordDataset(source, TrainingSpec(size, options))


def _on_threads(load: Callable[[int], None], threads: int) -> Iterator[int]:
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending = [pool.submit(load, number) for number in range(2 * threads)]
        for number in itertools.count(len(pending)):
            pending.pop(0).result()
            pending.append(pool.submit(load, number))
            yield 1


# Measuring.


@dataclasses.dataclass(frozen=True)
class Rate:
    """Clips per second: of the clock, of processor time of all processes, of this process's."""

    clock: float
    processor: float
    parent: float


def children() -> list[Path]:
    """Directories in /proc of this process's children."""
    found = ' '.join(path.read_text() for path in Path('/proc/self/task').glob('*/children'))
    return [Path('/proc', child) for child in found.split()]


def processor_seconds() -> tuple[float, float]:
    """Processor time so far, of this process and its children, and of this process alone."""
    own, ticks = time.process_time(), 0
    for child in children():
        fields = (child / 'stat').read_text().rpartition(')')[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return own + ticks / TICK, own


def measure(make: Callable[[], Iterator[int]], seconds: float) -> Rate:
    """The rate over `seconds` after a warm-up: the read-ahead is used up, memory comes again."""
    side, clips = make(), 0
    warm_until = time.perf_counter() + seconds / 3
    while time.perf_counter() < warm_until or clips < WARM_UP_CLIPS:
        clips += next(side)
    clips, start, used = 0, time.perf_counter(), processor_seconds()
    while time.perf_counter() < start + seconds:
        clips += next(side)
    clock = time.perf_counter() - start
    all_used, own = (now - before for now, before in zip(processor_seconds(), used))
    side.close()
    return Rate(clips / clock, clips / all_used, clips / own)


def compare(sides: dict[str, Callable[[], Iterator[int]]], rounds: int, seconds: float) -> None:
    first = next(iter(sides))
    rates: dict[str, list[Rate]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, make in sides.items():
            rates[name].append(measure(make, seconds))
    title = f'{first} / it'
    print(
        f'{"":<12} {"clips/s":>9} {title:>12} {"CPU ms/clip":>12} {title:>12} {"parent ms":>10}',
        flush=True,
    )
    for name, own in rates.items():
        clock, processor, parent = (
            (
                statistics.median(getattr(rate, field) for rate in own),
                statistics.median(
                    getattr(a, field) / getattr(b, field) for a, b in zip(rates[first], own)
                ),
            )
            for field in ('clock', 'processor', 'parent')
        )
        print(
            f'{name:<12} {clock[0]:>9.1f} {clock[1]:>12.2f} {1000 / processor[0]:>12.2f} '
            f'{processor[1]:>12.2f} {1000 / parent[0]:>10.2f}',
            flush=True,
        )


def lock_share(source: Source, case: Case, seconds: float) -> None:
    """How long a clip holds Python's global lock at most.

    Its time without decoding and resizing, which release it.
    """
    whole = 1 / measure(lambda: ours(source, case, threads=1), seconds).processor

    def blank(jpeg: bytes, **options: object) -> np.ndarray:
        return np.empty((*simplejpeg.decode_jpeg_header(jpeg)[:2], 3), np.uint8)

    with (
        mock.patch.object(simplejpeg, 'decode_jpeg', blank),
        mock.patch.object(cv2, 'resize', lambda *args, **kwargs: None),
        mock.patch.object(cv2, 'flip', lambda *args, **kwargs: None),
    ):
        held = (
            1
            / measure(
                lambda: ours(source, dataclasses.replace(case, reduced=False), threads=1), seconds
            ).processor
        )
    print(
        f'one clip on one thread: {1000 * whole:.2f} ms, of which at most '
        f'{1000 * held:.2f} ms ({held / whole:.0%}) hold the global lock: {whole / held:.0f} '
        'threads per process before it is the limit'
    )
    one = measure(lambda: ours(source, case, threads=1), seconds).clock
    two = measure(lambda: ours(source, case, threads=2), seconds).clock
    print(f'2 threads against 1: {two / one:.2f} times the clips/s')


def memory(source: Source, batches: int) -> None:
    """Memory of a process that does nothing else, and of two that work for it, in many batches."""
    side = pipeline.train_batches(
        [source],
        ClipSize(2, 112),
        OrderOptions(batch_size=4),
        InputOptions((112, 140), num_processes=2),
        num_steps=batches + 1,
    )
    for number, _ in enumerate(side):
        if number % (batches // 5) == 0:
            own, *others = (
                int(re.search(r'RssAnon:\s+(\d+)', (path / 'status').read_text())[1]) / 1024
                for path in (Path('/proc/self'), *children())
            )
            others = ' and '.join(f'{size:.0f}' for size in others)
            print(f'batch {number:>6}: {own:.0f} MiB of its own, workers {others}', flush=True)


# Storages, processes, quality.


def make_storages(root: Path, videos: list[Path]) -> tuple[dict[str, Source], list[Path]]:
    """The videos with short side 320, 10 s each, as records of every storage; and their files."""
    files = [root / 'videos320' / f'{path.stem}.mp4' for path in videos]
    for path, target in zip(videos, files):
        if not target.exists():
            resize_video(path, target)
    clips = tuple(Clip(str(path), path.name, (number % 2,)) for number, path in enumerate(files))
    annotations = Annotations(classes=('even', 'odd'), splits={'train': clips})
    sources = {}
    for name, options in STORAGES.items():
        directory = root / f'storage {name}'
        convert(annotations, directory, Options(shards=4, progress=False, **options))
        sources[name] = Source(directory, name, 'train', video_root=root / 'videos320')
    return sources, files


def resize_video(path: Path, target: Path) -> None:
    """As `ffmpeg -vf scale=-2:320` does, with x264's defaults: what such datasets are kept as."""
    target.parent.mkdir(parents=True, exist_ok=True)
    video = video_file.read_frames(path, short_side=320, max_seconds=10.0)
    height, width = (side // 2 * 2 for side in video.frames.shape[1:3])
    with av.open(str(target), 'w') as container:
        stream = container.add_stream('libx264', rate=round(video.frame_rate))
        stream.pix_fmt, stream.height, stream.width = 'yuv420p', height, width
        for frame in video.frames:
            picture = av.VideoFrame.from_ndarray(frame[:height, :width], format='rgb24')
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def storages(root: Path, videos: list[Path], rounds: int, seconds: float) -> None:
    sources, files = make_storages(root, videos)
    length = mp4_bytes = 0
    for path in files:
        with av.open(str(path)) as container:
            length += container.duration / av.time_base
        mp4_bytes += path.stat().st_size
    print(f'\n{len(files)} videos of {length:.0f} s in all: GB per hour, against jpeg')
    stored = {
        name: sum(path.stat().st_size for path in Path(source.path).glob('train-*-of-*'))
        for name, source in sources.items()
    }
    stored['link'] += mp4_bytes
    for name, size in stored.items():
        print(f'{name:<12} {size / length * 3600 / 1e9:>9.2f} {size / stored["jpeg"]:>12.2f}')
    print(f'\n{LARGE}', flush=True)
    sides = {name: functools.partial(ours, source, LARGE) for name, source in sources.items()}
    compare(sides | {'pyav': functools.partial(pyav, files, LARGE)}, rounds, seconds)


def processes(source: Source, rounds: int, seconds: float, memory_batches: int) -> None:
    if memory_batches:  # first: the others leave memory behind
        memory(source, memory_batches)
    counts = sorted({1, 2, CORES // 2, CORES} - {0})

    def sides(threads: Callable[[int], int]) -> dict[str, Callable[[], Iterator[int]]]:
        return {
            f'{count} process{"es" if count > 1 else ""}': functools.partial(
                ours, source, LARGE, processes=count, threads=threads(count)
            )
            for count in counts
        }

    print(f'\n{LARGE}, {CORES} threads in all', flush=True)
    threads = {'threads': functools.partial(ours, source, LARGE)}
    compare(threads | sides(lambda count: CORES), rounds, seconds)
    print('\nthe same, one thread in each process', flush=True)
    compare(sides(lambda count: count), rounds, seconds)


def qualities(files: list[Path], rounds: int) -> None:
    """Of 20 frames of each video."""
    frames = []
    for path in files:
        video = video_file.read_frames(path).frames
        frames += list(video[np.linspace(0, len(video) - 1, 20).astype(int)])
    encoded = {quality: [jpeg.encode_jpeg(f, quality) for f in frames] for quality in QUALITIES}
    times: dict[int, list[float]] = {quality: [] for quality in QUALITIES}
    for _ in range(rounds):
        for quality, images in encoded.items():
            start = time.process_time()
            for image in images:
                simplejpeg.decode_jpeg(image, fastupsample=True)
            times[quality].append((time.process_time() - start) / len(images))
    print(f'\n{len(frames)} frames of short side {min(frames[0].shape[:2])}')
    print(f'{"quality":<12} {"bytes":>9} {"/ 90":>6} {"decode ms":>12} {"/ 90":>6} {"PSNR dB":>9}')
    size = {quality: sum(map(len, images)) / len(images) for quality, images in encoded.items()}
    for quality, images in encoded.items():
        decoded = (simplejpeg.decode_jpeg(image) for image in images)
        psnr = [cv2.PSNR(frame, other) for frame, other in zip(frames, decoded, strict=True)]
        own, reference = (statistics.median(times[q]) for q in (quality, 90))
        print(
            f'{quality:<12} {size[quality]:>9.0f} {size[quality] / size[90]:>6.2f} '
            f'{1000 * own:>12.3f} {own / reference:>6.2f} {statistics.mean(psnr):>9.2f}'
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ('peers', 'storages', 'processes', 'quality')
    parser.add_argument('--compare', nargs='+', choices=kinds, default=kinds)
    parser.add_argument(
        '--dmvr', type=Path, help='checkout of google-deepmind/dmvr; absent: that side is left out'
    )
    parser.add_argument('--videos', type=Path, help='folder of MP4 files; absent: synthetic ones')
    parser.add_argument(
        '--data', type=Path, help='where videos and records are kept; absent: a temporary folder'
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=6.0, help='of one side in one round')
    parser.add_argument(
        '--memory_batches', type=int, default=5000, help='0: leave the memory test out'
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.data or Path(temporary)
        files = video_files(root, args.videos)
        if 'peers' in args.compare:
            peers(args, *make_data(root, files, short_side=256))
        if 'storages' in args.compare:
            storages(root, files, args.rounds, args.seconds)
        if not {'processes', 'quality'}.isdisjoint(args.compare):
            sources, files = make_storages(root, files)
            if 'processes' in args.compare:
                processes(sources['jpeg'], args.rounds, args.seconds, args.memory_batches)
            if 'quality' in args.compare:
                qualities(files, args.rounds)


def peers(args: argparse.Namespace, source: Source, plain: Source, files: list[Path]) -> None:
    for kind, own in (('ours', source), ('whole', plain)):
        dataset = open_records(own, Case(224, (256, 320), False))
        stored = dataset.load(0).frames
        stored = [stored.fetch([number])[number] for number in range(len(stored))]
        height, width = decode.frame_size(stored)
        print(
            f'{kind}: {dataset.num_records} records; the first: {len(stored)} frames of '
            f'{height} x {width} px and {sum(map(len, stored)) / len(stored):.0f} bytes; {CORES} '
            'cores'
        )
    has_tf = args.dmvr is not None
    if has_tf:
        sys.path.insert(0, str(args.dmvr))
        import_dmvr()
    for case in (
        Case(224, (256, 320), False),
        Case(112, (128, 160), False),
        Case(112, (128, 160), True),
    ):
        sides = {
            'ours': functools.partial(ours, source, case),
            'whole': functools.partial(ours, plain, case),
        }
        if has_tf:
            sides['dmvr'] = functools.partial(dmvr, source, case)
        sides['pyav'] = functools.partial(pyav, files, case)
        sides['limit'] = functools.partial(bare_decode, source, case)
        sides['limit cut'] = functools.partial(bare_decode_cut, source, case)
        sides['fancy'] = functools.partial(bare_decode, source, case, box=False)
        if has_tf:
            sides['limit tf'] = functools.partial(bare_decode_tf, source, case)
        print(f'\n{case}', flush=True)
        compare(sides, args.rounds, args.seconds)
        lock_share(source, case, args.seconds)


if __name__ == '__main__':
    main()
