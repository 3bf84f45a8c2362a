package main

import (
	"regexp"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const (
	fieldRules = "buf.validate.field"
	idRule     = "waybill.options.v1.id"
	keyRule    = "waybill.options.v1.request_key"
	idPattern  = "^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
)

// constrain writes the validation rules of the contract into the schemas of messages, of bodies and of parameters.
func constrain(doc object, files *protoregistry.Files, schemas object) {
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Messages().Len() {
			message := file.Messages().Get(i)
			if schema, ok := schemas[string(message.FullName())].(object); ok {
				constrainSchema(schema, message)
			}
		}
		return true
	})
	_, methods := index(files)
	for _, item := range doc["paths"].(object) {
		for _, op := range item.(object) {
			operation := op.(object)
			method := methods[text(operation["operationId"])]
			if method == nil {
				continue
			}
			if parameters, ok := operation["parameters"].([]any); ok {
				for _, p := range parameters {
					constrainParameter(p.(object), method.Input())
				}
			}
			if schema, ok := bodySchema(operation); ok {
				constrainSchema(schema, method.Input())
			}
		}
	}
}

// bodySchema gives the schema of a body that is written out in place, which is the case when it is the whole request.
func bodySchema(operation object) (object, bool) {
	body, ok := operation["requestBody"].(object)
	if !ok {
		return nil, false
	}
	schema := body["content"].(object)["application/json"].(object)["schema"].(object)
	_, whole := schema["properties"]
	return schema, whole
}

func constrainParameter(parameter object, input protoreflect.MessageDescriptor) {
	name := text(parameter["name"])
	field := input.Fields().ByJSONName(name)
	if field == nil {
		field = input.Fields().ByName(protoreflect.Name(name))
	}
	if field == nil {
		return
	}
	if constrainField(parameter["schema"].(object), field) && parameter["in"] == "query" {
		parameter["required"] = true
	}
}

func constrainSchema(schema object, message protoreflect.MessageDescriptor) {
	properties, _ := schema["properties"].(object)
	var required []any
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		property, ok := properties[field.JSONName()].(object)
		if ok && constrainField(property, field) {
			required = append(required, field.JSONName())
		}
	}
	if len(required) > 0 {
		schema["required"] = required
	}
}

// constrainField writes the rules of one field into its schema, and reports whether the field must be given. A rule that a schema cannot express is left to the field's description.
func constrainField(schema object, field protoreflect.FieldDescriptor) bool {
	value, ok := option(field.Options().ProtoReflect(), fieldRules)
	if !ok {
		return false
	}
	rules := value.Message()
	required, _ := option(rules, "required")
	must := required.IsValid() && required.Bool()
	if items, ok := option(rules, "repeated", "items"); ok {
		if inner, ok := schema["items"].(object); ok {
			constrainString(inner, items.Message())
		}
	}
	must = constrainList(schema, rules) || must
	must = constrainString(schema, rules) || must
	must = constrainInt(schema, rules) || must
	if not, ok := option(rules, "enum", "not_in"); ok && not.List().Len() > 0 && not.List().Get(0).Int() == 0 {
		must = true
	}
	if _, ignored := option(rules, "ignore"); ignored {
		return false
	}
	return must
}

func constrainString(schema object, rules protoreflect.Message) bool {
	must := false
	if n, ok := option(rules, "string", "min_len"); ok && n.Uint() > 0 {
		schema["minLength"] = n.Uint()
		must = true
	}
	if n, ok := option(rules, "string", "max_len"); ok {
		schema["maxLength"] = n.Uint()
	}
	if p, ok := option(rules, "string", "pattern"); ok {
		schema["pattern"] = p.String()
		must = must || !regexp.MustCompile(p.String()).MatchString("")
	}
	if _, ok := option(rules, "string", "email"); ok {
		schema["format"] = "email"
		must = true
	}
	if _, ok := option(rules, "string", idRule); ok {
		schema["format"] = "uuid"
		schema["pattern"] = idPattern
		must = true
	}
	// Not required in a body: the header Idempotency-Key may stand for it.
	if _, ok := option(rules, "string", keyRule); ok {
		schema["minLength"], schema["maxLength"] = 1, 255
	}
	return must
}

func constrainList(schema object, rules protoreflect.Message) bool {
	must := false
	if n, ok := option(rules, "repeated", "min_items"); ok && n.Uint() > 0 {
		schema["minItems"] = n.Uint()
		must = true
	}
	if n, ok := option(rules, "repeated", "max_items"); ok {
		schema["maxItems"] = n.Uint()
	}
	if _, ok := option(rules, "repeated", "unique"); ok {
		schema["uniqueItems"] = true
	}
	return must
}

// constrainInt leaves 64-bit numbers alone: in JSON they are strings.
func constrainInt(schema object, rules protoreflect.Message) bool {
	must := false
	for _, kind := range []protoreflect.FullName{"int32", "int64"} {
		if n, ok := option(rules, kind, "gte"); ok {
			must = must || n.Int() > 0
			if kind == "int32" {
				schema["minimum"] = n.Int()
			}
		}
		if n, ok := option(rules, kind, "lte"); ok && kind == "int32" {
			schema["maximum"] = n.Int()
		}
		if not, ok := option(rules, kind, "not_in"); ok && not.List().Len() > 0 && not.List().Get(0).Int() == 0 {
			must = true
		}
	}
	return must
}
