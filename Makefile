PROTOC = python -m grpc_tools.protoc -I.
proto:
	$(PROTOC) --python_out=. --mypy_out=quiet:. protos/*.proto
	$(PROTOC) --grpc_python_out=. --mypy_grpc_out=quiet:. $$(grep -l '^service ' protos/*.proto)
