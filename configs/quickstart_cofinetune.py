"""Co-finetuning in small: two synthetic classification datasets and one of action localisation, together, on a CPU.

    python run.py --config=configs/quickstart_cofinetune.py --workdir=runs/quickstart_cofinetune

"scenes" has boxes with actions, several of a box, as AVA has them, and few videos; most of its actions are rare. It is
trained together with "motions" and "directions", which show the same movements. Renders and converts the videos the
first time (they are kept under `data_root`).
"""

import ml_collections
from ml_collections.config_dict import placeholder  # None, until the command line gives a value


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    config.seed = 0  # of initialisation, order of the data, augmentation, dropout
    config.data_root = 'data/quickstart_cofinetune'  # directory that holds the datasets
    config.epochs = 20.0  # passes over the union of the training splits
    config.batch_size = 16  # clips per update, over all devices of all hosts
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
    config.log_every_steps = 50
    config.cpu_devices = placeholder(int)  # a CPU counts as one device
    config.parallel = dict(
        model=1,  # devices that share a replica (tensor parallelism): attention heads and hidden units; 1: a replica is a device
        shard_optimizer=False,  # optimizer state and moving average divided over the replicas (ZeRO-1), to save memory
    )
    config.compilation_cache_dir = (
        '~/.cache/multitrain_jax/xla'  # compiled programs, kept between runs; None: off
    )

    config.synthetic = dict(  # rendered under data_root when they are not there yet
        train_videos=400,  # of each dataset
        validation_videos=100,
        scene_train_videos=200,  # of "scenes"; 0: none
        scene_validation_videos=200,
        seed=0,  # of the videos
    )

    config.datasets = dict(
        motions=dict(
            path='motions',  # directory with dataset.json, under data_root
            sampling='strided',  # a part of the video, frames at a fixed step
            stride=2,  # step, counted in frames at target_frame_rate
            target_frame_rate=15.0,  # frames per second that stride counts in; None: stored frames
            flip=True,  # mirror half of the training clips
            loss_weight=1.0,  # factor of this dataset's losses
            train_split='train',
            evaluation_split='validation',
            task='auto',  # 'classification': of a dataset with boxes, the actions of the whole clip
            batch_size=placeholder(
                int
            ),  # of the schedules whose batches are of one dataset; None: config.batch_size
        ),
        directions=dict(
            path='directions',
            sampling='uniform',  # frames over the whole video, as for Something-Something
            stride=1,  # not used by 'uniform'
            target_frame_rate=None,  # not used by 'uniform'
            flip=False,  # left and right matter
            loss_weight=1.0,
            train_split='train',
            evaluation_split='validation',
            task='auto',  # 'classification': of a dataset with boxes, the actions of the whole clip
            batch_size=placeholder(
                int
            ),  # of the schedules whose batches are of one dataset; None: config.batch_size
        ),
    )

    config.datasets.scenes = dict(
        path='scenes',
        sampling='key_frame',  # frames at a fixed step around the key frame, whose boxes are labelled
        stride=2,
        target_frame_rate=15.0,
        flip=False,  # left and right matter
        loss_weight=3.0,  # factor of its localisation loss: a mean over all actions, of which few are positive
        train_split='train',
        evaluation_split='validation',
        task='auto',
        batch_size=placeholder(int),
    )

    config.schedule = dict(  # how mini-batches are made of several datasets
        # 'concatenate': from their union, by size; 'weighted'; 'alternating', 'uniform', 'accumulated', 'task_by_task'
        kind='weighted',
        by='example',  # 'weighted': draws the dataset of every clip, or ('batch') of every batch
        weights=None,  # 'weighted': dict(NAME=probability, ...); None: size ** size_power
        size_power=0.5,  # between by size (1) and all alike (0)
        order=placeholder(tuple),  # 'task_by_task': names of the datasets; None: as above
    )

    config.localisation = dict(  # of datasets with boxes
        max_boxes=4,  # places for boxes of a clip
        jitter=0.05,  # training: each side moves by a normal deviate of so many times the box's extent
        min_visible=0.25,  # training: boxes of which less is left after the crop are dropped
        train_on_proposals=False,  # a detector's boxes that overlap a labelled one are further labelled ones
        proposal_iou=0.75,  # from this overlap on
        candidates='proposals',  # the boxes scored in evaluation: a detector's, or 'ground_truth'
        min_candidate_score=0.5,  # of the detector
        test_short_sides=(),  # pixels; each is a further view; (): evaluation.short_side
        test_flip=False,  # each view mirrored, too
        head=dict(
            dropout=0.1,  # before the last layer
            context=False,  # boxes attend to the whole clip
            context_heads=8,
            output_size=7,  # bins of RoIAlign along a side
            sampling_ratio=0,  # samples along a side of a bin; 0: adaptive
        ),
    )

    config.model = dict(
        backbone=dict(  # MViTv2, MultiTrain's form, narrow and shallow
            num_frames=8,
            image_size=64,  # pixels
            width=32,  # of stage 1; doubles with every stage
            heads=1,  # of stage 1; doubles with every stage
            stage_blocks=(1, 2),  # blocks per stage
            query_strides=((1, 1, 1), (1, 2, 2)),  # (t, h, w) of each stage's first block
            kv_stride=(1, 2, 2),  # of keys and values in stage 1
            patch_kernel=(3, 9, 9),  # coarser than the published (3, 7, 7) / (2, 4, 4), for speed
            patch_stride=(2, 8, 8),
            mlp_ratio=4.0,
            stochastic_depth=0.0,  # of the last block; linear from 0 in the first
            positions='separate',  # learned spatial and temporal vectors
            class_token=False,
            skip_input='raw',  # what the widening skip path reads
            pool_norm_epsilon=1e-5,
            init_std=0.1,  # of linear kernels; narrow models train faster from about 1 / sqrt(width)
            dtype='float32',  # of activations; 'bfloat16' on accelerators
            attention='xla',  # or 'cudnn': fused, for bfloat16 on NVIDIA GPUs (Ampere or newer)
            remat=False,  # recompute blocks in the backward pass to save memory
            remat_attention=False,  # recompute only attention matrices
        ),
        head_hidden=128,  # hidden width of each dataset's head; 0: linear
        head_dropout=0.1,  # before a head's last layer
        logit_dropout=0.0,  # of the logits, 0.5 in MultiTrain's public code
        projections=True,  # between every ordered pair of datasets, in training
        projection_rank=0,  # R > 0: products of factors of rank R, for many datasets of many classes
        add_projected=0.0,  # factor of the projected logits added to each head's own, also in predictions; 0: off
        expander=True,  # of the informative loss, in training
        expander_hidden=256,
    )

    config.input = dict(
        short_side=(64, 76),  # pixels; random short side before the random crop
        repeats=1,  # samples of each record in its batch (repeated augmentation)
        num_threads=placeholder(int),  # that read and decode; None: one per core
        max_bad_records=10,  # damaged records to skip before the run stops
        reduced_decoding=False,  # decode at half size where crops allow it: faster, slightly other pixels
        tf_data_service=placeholder(
            str
        ),  # 'HOST:PORT' of a tf.data service whose workers make training batches; None: this host
    )

    config.augment = dict(  # on the device
        mean=(0.45, 0.45, 0.45),  # of pixels scaled to 0..1
        std=(0.225, 0.225, 0.225),
        rand_augment='',  # for example 'rand-m7-n4-mstd0.5-inc1'; '': off
        color_jitter=0.4,  # largest change of brightness, contrast, saturation
        erasing_probability=0.0,  # of a clip having a box of noise
        mixup_alpha=0.2,  # of Beta(alpha, alpha); 0: off
        cutmix_alpha=0.0,  # 0: off
        mix_probability=0.2,  # of a group being mixed
        mix_switch_probability=0.5,  # of CutMix, where both are on
        mix_group=2,  # clips that share one draw; divides every device's share of the batch
    )

    config.objective = dict(
        lambda_proj=1.0,  # weight of the projection loss
        lambda_inf=0.1,  # weight of the informative loss
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
        peak_learning_rate=2e-3,
        warmup_start_learning_rate=1e-5,
        end_learning_rate=1e-5,
        warmup_epochs=1.0,
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
        every_epochs=0.0,  # 0: only at the end
        batch_size=64,  # views per batch, over all devices of all hosts
        short_side=64,  # pixels
        temporal_views=3,  # clips along the video ('uniform' datasets have one)
        spatial_views=3,  # left, centre, right
    )

    config.checkpoint = dict(
        every_steps=250,
        keep=2,  # newest ones
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
