"""Eqs. 1-3."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.selection import Clusters, cluster_count, kmeans, representatives

CENTRES = jnp.array([[10.0, 0.0], [0.0, 10.0], [-10.0, -10.0]])


def blobs(each=6):
    noise = jax.random.normal(jax.random.key(0), (3, each, 2))
    return (CENTRES[:, None] + noise).reshape(-1, 2)


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (2, 2), (5, 3), (10, 3), (12, 3), (20, 6), (25, 6), (40, 9), (1000, 10)]
)
def test_cluster_count_by_hand(size, count):
    assert cluster_count(size, base=10, scale=3.0, minimum=3, maximum=10) == count


def test_an_empty_buffer_has_no_clusters():
    with pytest.raises(ValueError, match="buffer is empty"):
        cluster_count(0)


def test_separate_blobs_are_found():
    clusters = kmeans(jax.random.key(1), blobs(), jnp.ones(18, bool), 3, most=5)
    labels = np.asarray(clusters.assignment).reshape(3, 6)
    assert all(len(set(row)) == 1 for row in labels) and len(set(labels[:, 0])) == 3
    assert labels.max() < 3  # room for five, three asked for


def test_inertia_is_the_sum_of_squared_distances():
    points = blobs()
    clusters = kmeans(jax.random.key(1), points, jnp.ones(18, bool), 3, most=3)
    by_hand = ((points - clusters.centroids[clusters.assignment]) ** 2).sum()
    assert float(clusters.inertia) == pytest.approx(float(by_hand), rel=1e-4)


def test_invalid_points_take_no_part():
    points = jnp.concatenate([blobs(), jnp.full((2, 2), 1e3)])
    valid = jnp.arange(20) < 18
    clusters = kmeans(jax.random.key(1), points, valid, 3, most=3)
    assert np.abs(np.asarray(clusters.centroids)).max() < 20


def test_as_many_clusters_as_samples():
    points = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    clusters = kmeans(jax.random.key(0), points, jnp.ones(2, bool), 2, most=4)
    picked, found = representatives(points, jnp.ones(2, bool), clusters)
    assert sorted(np.asarray(picked)[:2]) == [0, 1]
    np.testing.assert_array_equal(found, [True, True, False, False])


def test_the_representative_is_nearest_by_angle_and_the_literal_reading_farthest():
    points = jnp.array([[1.0, 0.0], [1.0, 0.1], [1.0, 1.0]])
    valid = jnp.ones(3, bool)
    clusters = kmeans(jax.random.key(0), points, valid, 1, most=1)  # centroid (1, 0.3667)
    assert int(representatives(points, valid, clusters)[0][0]) == 1
    assert int(representatives(points, valid, clusters, pick=jnp.argmin)[0][0]) == 2


def test_more_restarts_find_tighter_clusters():
    points = jax.random.normal(jax.random.key(3), (30, 2))
    tight = lambda restarts: np.array([  # noqa: E731
        kmeans(jax.random.key(at), points, jnp.ones(30, bool), 6, most=6, restarts=restarts).inertia for at in range(6)
    ])  # fmt: skip
    assert tight(8).mean() < 0.97 * tight(1).mean()


def test_a_point_that_takes_no_part_represents_nothing():
    points = jnp.concatenate([blobs(), CENTRES])  # the best possible representatives, but not valid
    assignment = jnp.concatenate([jnp.repeat(jnp.arange(3), 6), jnp.arange(3)])
    clusters = Clusters(assignment, CENTRES, jnp.float32(0))
    chosen, _ = representatives(points, jnp.arange(21) < 18, clusters)
    assert np.all(chosen < 18)
