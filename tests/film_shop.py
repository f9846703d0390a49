"""A shop of three films, and a caller of the retriever that serves it, within the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bundle_factory import make_catalogue, text_info, write_bundle
from google.protobuf import json_format

from clozerec.v1 import filter_pb2, retriever_pb2
from clozerec_core.bundle import Bundle
from clozerec_core.catalogue import ColumnType
from clozerec_core.rpc_client import LocalStub
from clozerec_retriever.assembly import build
from clozerec_retriever.settings import RetrieverSettings

SCHEMA = {
    "title": ColumnType.STRING,
    "price": ColumnType.FLOAT,
    "stock": ColumnType.INTEGER,
    "genres": ColumnType.STRING_LIST,
    "out": ColumnType.DATETIME,
}
COLUMNS: dict[str, list[object]] = {
    "title": ["Alien", "Brazil", "Cube"],
    "price": [9.5, 5.0, None],
    "stock": [1, 0, 2],
    "genres": [["Horror", "Sci-Fi"], [], ["Horror"]],
    "out": [None, None, None],
}
IDS = ["alien", "brazil", "cube"]
VECTORS = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
CONTENT = np.array([[1, 0], [1, 1], [0, 2]], np.float32)
EARLY, LATE = "2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


def shop(output_dir: Path, bundle_id: str = "tiny", created_at: str = EARLY, **changes: Any) -> Bundle:
    """A bundle older than any change of these tests, unless it says otherwise."""
    schema = changes.pop("schema", SCHEMA)
    columns = changes.pop("columns", COLUMNS)
    text = changes.pop("text", text_info(2))
    catalogue = make_catalogue({name: columns[name] for name in schema}, schema, IDS)
    payload = {"display_name": "title"}
    return write_bundle(
        output_dir,
        catalogue,
        VECTORS,
        [1, 4, 2],
        CONTENT,
        bundle_id=bundle_id,
        created_at=created_at,
        text=text,
        payload=payload,
        **changes,
    )


class Caller:
    """Calls a retriever within the process."""

    def __init__(self, stub: Any) -> None:
        self.stub = stub

    async def upsert(self, *items: dict[str, Any], mask: Sequence[str] | None = None) -> list[int]:
        """The codes of the items' statuses; their messages are in `said`."""
        request = retriever_pb2.RetrieverServiceUpsertItemsRequest(items=[item_of(**item) for item in items])
        if mask is not None:
            request.update_mask.SetInParent()
            request.update_mask.paths.extend(mask)
        response = await self.stub.UpsertItems(request, timeout=5)
        assert [status.item_id for status in response.statuses] == [item["item_id"] for item in items]
        self.said = [status.message for status in response.statuses]
        return [status.code for status in response.statuses]

    async def renew(self, *items: dict[str, Any]) -> list[int]:
        """The codes of the items' statuses."""
        request = retriever_pb2.RetrieverServiceUpsertItemsRequest(
            items=[item_of(**item) for item in items], renew_content=True
        )
        return [status.code for status in (await self.stub.UpsertItems(request, timeout=5)).statuses]

    async def delete(self, *item_ids: str) -> list[int]:
        request = retriever_pb2.RetrieverServiceDeleteItemsRequest(item_ids=item_ids)
        return [status.code for status in (await self.stub.DeleteItems(request, timeout=5)).statuses]

    async def near(self, *intent: float, where: filter_pb2.Filter | None = None, top_k: int = 10) -> list[str]:
        request = retriever_pb2.SearchRequest(
            bundle_id=await self.bundle_id(), intent=intent, filter=where, top_k=top_k
        )
        return [found.item_id for found in (await self.stub.Search(request, timeout=5)).candidates]

    async def popular(self, where: filter_pb2.Filter | None = None) -> list[tuple[str, float]]:
        response = await self.stub.ListPopular(retriever_pb2.ListPopularRequest(filter=where, top_k=10), timeout=5)
        return [(found.item_id, round(found.score, 4)) for found in response.candidates]

    async def item(self, item_id: str) -> retriever_pb2.StoredItem:
        request = retriever_pb2.RetrieverServiceGetItemsRequest(item_ids=[item_id], include_content=True)
        (item,) = (await self.stub.GetItems(request, timeout=5)).items
        return item

    async def metadata(self, item_id: str) -> dict[str, Any]:
        return json_format.MessageToDict((await self.item(item_id)).metadata)

    async def info(self) -> retriever_pb2.GetIndexInfoResponse:
        return await self.stub.GetIndexInfo(retriever_pb2.GetIndexInfoRequest(), timeout=5)

    async def bundle_id(self) -> str:
        return (await self.info()).bundle_id


def item_of(
    item_id: str,
    metadata: dict[str, Any] | None = None,
    content: Sequence[float] = (),
    text_model: str | None = None,
    text: str = "",
) -> retriever_pb2.CatalogueItem:
    model = text_model if text_model is not None else "mini" if content else ""
    item = retriever_pb2.CatalogueItem(item_id=item_id, content=content, text_model=model, text=text)
    item.metadata.update(metadata or {})
    return item


def condition(column: str, operator: str, **value: Any) -> filter_pb2.Filter:
    return filter_pb2.Filter(
        condition=filter_pb2.Condition(
            column=column, operator=f"OPERATOR_{operator}", values=[filter_pb2.Value(**value)] if value else []
        )
    )


@asynccontextmanager
async def running(bundle: Bundle, state_dir: Path, **settings: Any) -> AsyncIterator[Caller]:
    servicer = build(bundle, RetrieverSettings(bundle=bundle.path, state_dir=state_dir, **settings))
    try:
        yield Caller(LocalStub(servicer))
    finally:
        servicer.close()


DUNE: dict[str, Any] = {
    "item_id": "dune",
    "metadata": {"title": "Dune", "price": 12, "stock": 3, "genres": ["Sci-Fi"], "out": "2021-09-15"},
    "content": [0, 1],
    "text": "Dune. Sci-Fi",
}
DUNE_METADATA = {"title": "Dune", "price": 12.0, "stock": 3.0, "genres": ["Sci-Fi"], "out": "2021-09-15T00:00:00Z"}
