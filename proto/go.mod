module github.com/waybill-dev/waybill/proto

go 1.26
