"""Kinetics-400 from scratch: MViTv2-B 32x3, to be trained on further (configs/multitrain.py) or used by itself.

    python run.py --config=configs/kinetics_pretrain.py --workdir=runs/kinetics_pretrain --config.data_root=/data

`DATA_ROOT/kinetics400` is a directory of records, written by `python -m data_pipelines.convert kinetics`. The protocol
of MViTv2 as MultiTrain follows it (supplement, section 2.1): 200 epochs at batch 512, each of which took the authors 3200 s
on 8 V100 (section 2.3). Then:

    python run.py --config=configs/multitrain.py --workdir=runs/multitrain --config.data_root=/data \\
      --config.init_from=runs/kinetics_pretrain

The variant `:imagenet` starts from an image model, whose kernels are inflated in time (supplement, section 2.3), and trains
for 75 epochs. Import it first; the architecture is then the public one, with relative positions:

    python -m multitrain_jax.import_torch --checkpoint=MViTv2_B_in1k.pyth --output=imports/mvit_v2_b_imagenet
    python run.py --config=configs/kinetics_pretrain.py:imagenet --workdir=runs/kinetics_imagenet --config.data_root=/data
"""

import ml_collections
from ml_collections.config_dict import placeholder  # None, until the command line gives a value


def get_config(variant: str = '') -> ml_collections.ConfigDict:
    if variant not in ('', *VARIANTS):
        raise ValueError(
            f'configs/kinetics_pretrain.py has no variant {variant!r}, only {", ".join(VARIANTS)}'
        )
    config = kinetics_pretrain()
    if variant:
        VARIANTS[variant](config)
    return config


def imagenet(config: ml_collections.ConfigDict) -> None:
    config.init_from = 'imports/mvit_v2_b_imagenet'
    config.epochs = 75.0
    config.optimizer.warmup_epochs = (
        10.0  # the supplement does not tell; a trained model needs fewer
    )
    config.model.backbone.update(
        positions='relative', skip_input='normalised', pool_norm_epsilon=1e-6
    )


VARIANTS = {'imagenet': imagenet}


def kinetics_pretrain() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    config.seed = 0  # of initialisation, order of the data, augmentation, dropout
    config.data_root = 'data'  # directory that holds the datasets
    config.epochs = 200.0  # passes over the training split
    config.batch_size = 512  # clips per update, over all devices of all hosts
    config.accumulation_steps = (
        1  # parts that a batch is cut into, one after the other, to save memory
    )
    # 'two_pass': the informative loss is of the whole batch, for one more forward pass; 'plain': of each part
    config.accumulation = 'two_pass'
    config.init_from = placeholder(
        str
    )  # export, import or workdir that the first parameters come from; None: random
    config.projections_from = placeholder(
        str
    )  # npz, json or export that projections start from; None: random
    config.log_every_steps = 20
    config.compilation_cache_dir = (
        '~/.cache/multitrain_jax/xla'  # compiled programs, kept between runs; None: off
    )
    config.cpu_devices = placeholder(int)  # a CPU counts as one device
    config.parallel = dict(
        model=1,  # devices that share a replica (tensor parallelism): attention heads and hidden units; 1: a replica is a device
        shard_optimizer=False,  # optimizer state and moving average divided over the replicas (ZeRO-1), to save memory
    )
    config.synthetic = None  # no data is rendered

    config.datasets = dict(
        kinetics400=dict(
            path='kinetics400',  # directory with dataset.json, under data_root
            sampling='strided',  # a part of the video, frames at a fixed step
            stride=3,  # 32 frames at stride 3 of a 30 frames/s video: 3.2 s
            target_frame_rate=30.0,  # frames per second that stride counts in
            flip=True,  # mirror half of the training clips
            loss_weight=1.0,
            train_split='train',
            evaluation_split='validation',
            task='auto',  # 'classification': of a dataset with boxes, the actions of the whole clip
            batch_size=placeholder(
                int
            ),  # of the schedules whose batches are of one dataset; None: config.batch_size
        ),
    )

    config.schedule = dict(  # how mini-batches are made of several datasets
        # 'concatenate': from their union, by size; 'weighted'; 'alternating', 'uniform', 'accumulated', 'task_by_task'
        kind='concatenate',
        by='example',  # 'weighted': draws the dataset of every clip, or ('batch') of every batch
        weights=None,  # 'weighted': dict(NAME=probability, ...); None: size ** size_power
        size_power=1.0,
        order=placeholder(tuple),  # 'task_by_task': names of the datasets; None: as above
    )
    config.localisation = None  # no dataset has boxes; see config.LocalisationConfig

    config.model = dict(
        backbone=dict(  # MViTv2-B 32x3, MultiTrain's form (supplement, table 2)
            num_frames=32,
            image_size=224,  # pixels
            width=96,  # of stage 1; doubles with every stage
            heads=1,  # of stage 1; doubles with every stage
            stage_blocks=(2, 3, 16, 3),  # blocks per stage
            query_strides=(
                (1, 1, 1),
                (1, 2, 2),
                (1, 2, 2),
                (1, 2, 2),
            ),  # (t, h, w) of each stage's first block
            kv_stride=(1, 8, 8),  # of keys and values in stage 1
            patch_kernel=(3, 7, 7),
            patch_stride=(2, 4, 4),
            mlp_ratio=4.0,
            stochastic_depth=0.3,  # of the last block; linear from 0 in the first
            positions='separate',  # learned spatial and temporal vectors
            class_token=False,
            skip_input='raw',  # what the widening skip path reads
            pool_norm_epsilon=1e-5,
            init_std=0.02,  # of linear kernels
            dtype='bfloat16',  # of activations; parameters, softmax and losses are float32
            attention='xla',  # or 'cudnn': fused, for bfloat16 on NVIDIA GPUs (Ampere or newer)
            remat=False,  # recompute blocks in the backward pass: a third more time, half of the memory
            remat_attention=True,  # recompute only attention matrices: no more time, two thirds of the memory
        ),
        head_hidden=0,  # hidden width of the head; 0: linear
        head_dropout=0.5,  # before the head's last layer
        logit_dropout=0.0,  # of the logits
        projections=False,  # there is one dataset only
        projection_rank=0,  # R > 0: products of factors of rank R, for many datasets of many classes
        add_projected=0.0,  # factor of the projected logits added to each head's own, also in predictions; 0: off
        expander=False,  # of the informative loss, in training
        expander_hidden=2048,  # not used without an expander
    )

    config.input = dict(
        short_side=(256, 320),  # pixels; random short side before the random crop
        repeats=2,  # samples of each record in its batch (repeated augmentation)
        num_threads=placeholder(int),  # that read and decode; None: one per core
        max_bad_records=1000,  # damaged records to skip before the run stops
        reduced_decoding=False,  # decode at half size where crops allow it: faster, slightly other pixels
        tf_data_service=placeholder(
            str
        ),  # 'HOST:PORT' of a tf.data service whose workers make training batches; None: this host
    )

    config.augment = dict(  # on the device
        mean=(0.45, 0.45, 0.45),  # of pixels scaled to 0..1
        std=(0.225, 0.225, 0.225),
        rand_augment='rand-m7-n4-mstd0.5-inc1',  # '': off
        color_jitter=0.4,  # largest change of brightness, contrast, saturation
        erasing_probability=0.25,  # of a clip having a box of noise
        mixup_alpha=0.8,  # of Beta(alpha, alpha); 0: off
        cutmix_alpha=1.0,  # 0: off
        mix_probability=1.0,  # of a group being mixed
        mix_switch_probability=0.5,  # of CutMix, where both are on
        mix_group=2,  # clips that share one draw; divides every device's share of the batch
    )

    config.objective = dict(
        lambda_proj=0.0,  # weight of the projection loss
        lambda_inf=0.0,  # weight of the informative loss
        std_weight=25.0,  # of its variance term
        covariance_weight=1.0,  # of its covariance term
        label_smoothing=0.1,
        classification_loss='cross_entropy',
        projection_loss='cross_entropy',
        projection_l1=0.0,  # weight of the sum of the projections' absolute values
        learned_dataset_weights=False,  # the datasets' loss_weight are where learned ones start
        learned_informative_weights=False,  # likewise std_weight and covariance_weight
    )

    config.optimizer = dict(  # AdamW
        peak_learning_rate=1.6e-3,
        warmup_start_learning_rate=1.6e-5,
        end_learning_rate=1.6e-5,
        warmup_epochs=30.0,
        warmup_steps=0,  # instead of warmup_epochs
        weight_decay=0.05,  # none on biases and LayerNorm scales
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        clip_norm=1.0,  # L2 norm of all gradients together
        frozen=(),  # parameters that do not train; ('backbone',): linear probe
        layer_decay=1.0,  # factor of the learning rate from each block to the one before it; 1: off
        learning_rate_factors=dict(
            backbone=1.0,
            heads=1.0,
            localisation_heads=1.0,
            projections=1.0,
            expander=1.0,
            objective=1.0,
        ),
        ema_decay=0.0,  # of the moving average of the parameters that is evaluated and exported; 0: off
        ema_warmup=False,  # a smaller decay at first: at most n / (9 + n) in update n
    )

    config.evaluation = dict(
        every_epochs=10.0,  # 0: only at the end
        batch_size=512,  # views per batch, over all devices of all hosts
        short_side=256,  # pixels (the public code resizes to 224 for three crops)
        temporal_views=3,  # clips along the video
        spatial_views=3,  # left, centre, right
    )

    config.checkpoint = dict(
        every_steps=1000,
        keep=3,  # newest ones
        keep_best=placeholder(
            str
        ),  # 'average' or a dataset: WORKDIR/best keeps the best one of the evaluations; None: off
    )
    config.non_finite = dict(
        action='stop',  # at a loss or gradient that is not finite; 'skip': without that update the run goes on
        max_skips=10,  # 'skip': in the whole run; one more, and the run stops
    )
    config.replay = placeholder(
        str
    )  # file of WORKDIR/non_finite: its step is taken again and looked at; None: train
    return config
