"""Few-shot learning: episodes by the thousand, and classifiers of classes that were seen a few times.

The public names; `__init__.py` imports each at its first use.
"""

from .backbones import (
    BACKBONES as BACKBONES,
    Backbone as Backbone,
    Preprocess as Preprocess,
    backbone as backbone,
    features as features,
    from_function as from_function,
    load_backbone as load_backbone,
    raw as raw,
    save_backbone as save_backbone,
    without_layer as without_layer,
)
from .classifier import Classifier as Classifier, fit as fit, fit_features as fit_features
from .classifier_files import load_classifier as load_classifier, save_classifier as save_classifier
from .classifier_function import ClassifierFunction as ClassifierFunction, as_function as as_function
from .classifier_plot import plot_predictions as plot_predictions
from .classifier_predict import (
    Predictions as Predictions,
    predict as predict,
    predict_features as predict_features,
)
from .data import (
    LabelledFeatures as LabelledFeatures,
    LabelledImages as LabelledImages,
    Pictures as Pictures,
    check_disjoint as check_disjoint,
    cifar10 as cifar10,
    concatenate as concatenate,
    csv_table as csv_table,
    duplicates as duplicates,
    feature_table as feature_table,
    folder as folder,
    from_arrays as from_arrays,
    omniglot as omniglot,
    pictures as pictures,
    tiny_imagenet as tiny_imagenet,
)
from .delta import (
    DeltaConfig as DeltaConfig,
    DeltaEncoder as DeltaEncoder,
    DeltaTrainConfig as DeltaTrainConfig,
    delta_encoder as delta_encoder,
    load_delta as load_delta,
    save_delta as save_delta,
    synthesize as synthesize,
    train_delta as train_delta,
)
from .detection.detect import detect as detect, detector as detector
from .detection.found_objects import FoundObjects as FoundObjects
from .detection.new_classes import NewClasses as NewClasses, new_classes as new_classes
from .detection.new_classes_files import (
    load_new_classes as load_new_classes,
    save_new_classes as save_new_classes,
)
from .distances import l2_normalize as l2_normalize, squared_distances as squared_distances
from .episode_files import load_episodes as load_episodes, save_episodes as save_episodes
from .episodes import (
    ClassTable as ClassTable,
    Episode as Episode,
    EpisodeConfig as EpisodeConfig,
    class_table as class_table,
    draw as draw,
    draw_many as draw_many,
    left_out as left_out,
)
from .evaluation import EpisodesChunk as EpisodesChunk, compare as compare, evaluate as evaluate
from .files import Keep as Keep
from .kmeans import Clusters as Clusters, kmeans as kmeans
from .losses import (
    cross_entropy as cross_entropy,
    embedding_loss as embedding_loss,
    representative_loss as representative_loss,
)
from .memory import memory_budget as memory_budget, program_bytes as program_bytes
from .methods import (
    METHODS as METHODS,
    Method as Method,
    Tuning as Tuning,
    by_name as by_name,
    linear_head as linear_head,
    logistic as logistic,
    matching as matching,
    nearest_neighbour as nearest_neighbour,
    prototypes as prototypes,
    register as register,
    repmet as repmet,
    ridge as ridge,
    simpleshot as simpleshot,
    through as through,
)
from .objectives import (
    Objective as Objective,
    prototypical_objective as prototypical_objective,
    softmax_objective as softmax_objective,
)
from .plots import (
    plot_accuracies as plot_accuracies,
    plot_confusion as plot_confusion,
    plot_embeddings as plot_embeddings,
)
from .plugins import installed_backbones as installed_backbones, plugin_backbone as plugin_backbone
from .posteriors import Posterior as Posterior, log_modes as log_modes, posterior as posterior
from .refresh import kmeans_refresh as kmeans_refresh, kmeans_refresh_head as kmeans_refresh_head
from .repmet_model import (
    RepMetConfig as RepMetConfig,
    classify as classify,
    init_repmet as init_repmet,
    repmet_loss as repmet_loss,
    repmet_objective as repmet_objective,
)
from .representatives import Representatives as Representatives, fit_representatives as fit_representatives
from .results import Comparison as Comparison, EpisodeResult as EpisodeResult, Mean as Mean
from .retrieval import RetrievalResult as RetrievalResult, retrieval as retrieval
from .soft_triple import (
    SoftTripleConfig as SoftTripleConfig,
    soft_triple_objective as soft_triple_objective,
)
from .training import (
    Chunk as Chunk,
    Epoch as Epoch,
    TrainConfig as TrainConfig,
    Trained as Trained,
    load_head as load_head,
    progress as progress,
    save_head as save_head,
    train as train,
    train_head as train_head,
    with_head as with_head,
)
