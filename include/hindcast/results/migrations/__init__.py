"""How a store's tables came about, one step per file of `versions`; `hindcast.results.schema` takes them."""
