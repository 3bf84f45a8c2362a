package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

type object = map[string]any

const (
	accessOption      = "waybill.options.v1.access"
	idempotencyOption = "waybill.options.v1.idempotency"
	rawBodyOption     = "waybill.options.v1.raw_body"
	keyed             = 3 // IDEMPOTENCY_KEYED
)

// finish adds to the document what the annotations of the contract say.
func finish(doc object, files *protoregistry.Files) error {
	doc["info"] = object{
		"title":   "Waybill",
		"version": "v1",
		"summary": "Orders, stock, payments and shipments.",
		"description": "Every method of the gRPC services that is not a client stream, as REST. Sign in at `POST /v1/auth/login` and send the access token as `Authorization: Bearer …`. " +
			"Errors are `google.rpc.Status`: `ErrorInfo` carries a reason for programs, `BadRequest` names the fields that are wrong, `RetryInfo` says when to try again. " +
			"What belongs to somebody else does not exist for you (404). Amounts of money are whole numbers of the smallest unit of their currency; 64-bit numbers are written as strings.",
		"license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
	}
	doc["servers"] = []any{object{"url": "/", "description": "The server that sent this document."}}
	components := doc["components"].(object)
	components["securitySchemes"] = object{"bearer": object{
		"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The `access_token` of SignUp, LogIn or RefreshToken.",
	}}
	doc["security"] = []any{object{"bearer": []any{}}}

	names, methods := index(files)
	constrain(doc, files, components["schemas"].(object))
	for path, item := range doc["paths"].(object) {
		for verb, op := range item.(object) {
			operation := op.(object)
			id, _ := operation["operationId"].(string)
			method := methods[id]
			if method == nil {
				return fmt.Errorf("%s %s: no method is called %q", verb, path, id)
			}
			finishOperation(operation, method)
		}
	}
	rename(doc, names)
	return nil
}

// index gives the contract's name of every field by its JSON name, and every method by its operation id.
func index(files *protoregistry.Files) (map[string]string, map[string]protoreflect.MethodDescriptor) {
	names := map[string]string{}
	methods := map[string]protoreflect.MethodDescriptor{}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				methods[string(service.Name())+"_"+string(method.Name())] = method
			}
		}
		for i := range file.Messages().Len() {
			fields := file.Messages().Get(i).Fields()
			for j := range fields.Len() {
				names[fields.Get(j).JSONName()] = string(fields.Get(j).Name())
			}
		}
		return true
	})
	return names, methods
}

func finishOperation(operation object, method protoreflect.MethodDescriptor) {
	options := method.Options().ProtoReflect()
	if _, public := option(options, accessOption, "public"); public {
		operation["security"] = []any{}
	}
	operation["description"] = strings.TrimSpace(text(operation["description"]) + "\n\n" + mayCall(options))
	if mode, _ := option(options, idempotencyOption); mode.IsValid() && mode.Enum() == keyed {
		addHeader(operation, "Idempotency-Key", "Makes the call repeatable; the same as `request_id`, one of the two is needed.", false)
	}
	if method.IsStreamingServer() {
		addHeader(operation, "Last-Event-ID", "Resumes the stream after the event with this id; the same as `resume_token`.", false)
		success := operation["responses"].(object)["200"].(object)
		success["description"] = "One JSON object per line; with `Accept: text/event-stream`, one event per message, its `id` being the message's `resume_token`."
		success["content"].(object)["text/event-stream"] = object{"schema": object{"$ref": "#/components/schemas/" + string(method.Output().FullName())}}
	}
	if raw, ok := option(options, rawBodyOption); ok {
		header, _ := option(raw.Message(), "header")
		field, _ := option(raw.Message(), "header_field")
		operation["parameters"] = slices.DeleteFunc(operation["parameters"].([]any), func(p any) bool { return p.(object)["name"] == field.String() })
		addHeader(operation, header.String(), text(nil), true)
		operation["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": object{}}}}
	}
	operation["responses"].(object)["default"].(object)["description"] = "What went wrong."
}

func addHeader(operation object, name, description string, required bool) {
	parameters, _ := operation["parameters"].([]any)
	header := object{"name": name, "in": "header", "schema": object{"type": "string"}}
	if description != "" {
		header["description"] = description
	}
	if required {
		header["required"] = true
	}
	operation["parameters"] = append(parameters, header)
}

// mayCall says in words who may call a method.
func mayCall(options protoreflect.Message) string {
	if _, public := option(options, accessOption, "public"); public {
		return "Open to anybody."
	}
	roles, _ := option(options, accessOption, "roles")
	if !roles.IsValid() {
		return "Open to services only."
	}
	_, owner := option(options, accessOption, "owner")
	var who []string
	for i := range roles.List().Len() {
		switch roles.List().Get(i).Enum() {
		case 1:
			if owner {
				who = append(who, "customers for what is their own")
			} else {
				who = append(who, "customers")
			}
		case 2:
			who = append(who, "staff")
		case 3:
			who = append(who, "admins")
		}
	}
	last := len(who) - 1
	if last > 0 {
		who = append(who[:last-1], who[last-1]+" and "+who[last])
	}
	return "Open to " + strings.Join(who, ", ") + "."
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// rename gives fields the names of the contract wherever a schema or a parameter names them.
func rename(node any, names map[string]string) {
	switch node := node.(type) {
	case []any:
		for _, child := range node {
			rename(child, names)
		}
	case object:
		if properties, ok := node["properties"].(object); ok {
			for _, name := range slices.Collect(maps.Keys(properties)) {
				if to, ok := names[name]; ok && to != name {
					properties[to] = properties[name]
					delete(properties, name)
				}
			}
		}
		if required, ok := node["required"].([]any); ok {
			for i, name := range required {
				if to, ok := names[text(name)]; ok {
					required[i] = to
				}
			}
			slices.SortFunc(required, func(a, b any) int { return strings.Compare(text(a), text(b)) })
		}
		if name := text(node["name"]); node["in"] == "query" && names[name] != "" {
			node["name"] = names[name]
		}
		for _, child := range node {
			rename(child, names)
		}
	}
}
