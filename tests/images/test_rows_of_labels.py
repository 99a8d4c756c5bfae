"""The rows of each label, by one sort."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from probedistill.images.labelled import rows_of_labels


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 9))
def test_the_rows_of_each_label_in_order(labels, count):
    array = np.array(labels, dtype=np.int64)
    rows = rows_of_labels(array, count)
    most = max([count - 1, *labels])
    assert [some.tolist() for some in rows] == [np.flatnonzero(array == k).tolist() for k in range(max(most, 0) + 1)]
