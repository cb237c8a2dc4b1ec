"""The smallest experiment that has every part: `--config=tests/helpers/tiny_config.py`."""

import ml_collections
from ml_collections.config_dict import placeholder  # None, until the command line gives a value


def get_config() -> ml_collections.ConfigDict:
    dataset = dict(
        sampling='strided',
        stride=1,
        target_frame_rate=None,
        flip=False,
        loss_weight=1.0,
        train_split='train',
        evaluation_split='validation',
    )
    return ml_collections.ConfigDict(
        dict(
            seed=0,
            data_root='/nowhere',
            datasets=dict(
                colours=dict(path='colours', **dataset),
                shades=dict(path='shades', **dataset | dict(sampling='uniform', loss_weight=0.5)),
            ),
            epochs=4.0,
            batch_size=16,
            accumulation_steps=1,
            accumulation='plain',
            projections_from=placeholder(str),
            log_every_steps=1,
            log_images=False,
            init_from=placeholder(str),
            compilation_cache_dir=None,
            cpu_devices=placeholder(int),
            synthetic=None,
            model=dict(
                backbone=dict(
                    num_frames=4,
                    image_size=16,
                    width=8,
                    heads=1,
                    stage_blocks=(1,),
                    query_strides=((1, 1, 1),),
                    kv_stride=(1, 2, 2),
                    patch_kernel=(3, 7, 7),
                    patch_stride=(2, 4, 4),
                    mlp_ratio=2.0,
                    stochastic_depth=0.0,
                    positions='separate',
                    class_token=False,
                    skip_input='raw',
                    pool_norm_epsilon=1e-5,
                    init_std=0.3,
                    dtype='float32',
                    attention='xla',
                    remat=False,
                ),
                head_hidden=8,
                head_dropout=0.0,
                logit_dropout=0.0,
                projections=True,
                add_projected=0.0,
                expander=True,
                expander_hidden=8,
            ),
            input=dict(short_side=(16, 20), repeats=1, num_threads=2, max_bad_records=0),
            augment=dict(
                mean=(0.45, 0.45, 0.45),
                std=(0.225, 0.225, 0.225),
                rand_augment='',
                color_jitter=0.2,
                erasing_probability=0.25,
                mixup_alpha=0.8,
                cutmix_alpha=0.0,
                mix_probability=1.0,
                mix_switch_probability=0.5,
                mix_group=2,
            ),
            objective=dict(
                lambda_proj=1.0,
                lambda_inf=0.1,
                std_weight=25.0,
                covariance_weight=1.0,
                label_smoothing=0.1,
                classification_loss='cross_entropy',
                projection_loss='cross_entropy',
                projection_l1=0.0,
                learned_dataset_weights=False,
                learned_informative_weights=False,
            ),
            optimizer=dict(
                peak_learning_rate=1e-2,
                warmup_start_learning_rate=1e-4,
                end_learning_rate=1e-4,
                warmup_epochs=0.0,
                warmup_steps=1,
                weight_decay=0.05,
                b1=0.9,
                b2=0.999,
                eps=1e-4,
                clip_norm=1.0,
                frozen=(),
                layer_decay=1.0,
                learning_rate_factors=dict(
                    backbone=1.0, heads=1.0, projections=1.0, expander=1.0, objective=1.0
                ),
                ema_decay=0.0,
                ema_warmup=False,
            ),
            evaluation=dict(
                every_epochs=0.0, batch_size=8, short_side=16, temporal_views=2, spatial_views=3
            ),
            checkpoint=dict(every_steps=3, keep=2, keep_best=placeholder(str)),
            non_finite=dict(action='stop', max_skips=10),
            replay=placeholder(str),
            parallel=dict(model=1, shard_optimizer=False),
        )
    )
