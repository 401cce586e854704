package identity

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// TestDirectJSON compares what is written directly with what protojson makes of the same
// message, drawn with values in every field that the message has.
func TestDirectJSON(t *testing.T) {
	for _, test := range []struct {
		empty  proto.Message
		append func(proto.Message) []byte
	}{
		{&keytreev1.Resolution{}, func(m proto.Message) []byte { return appendResolution(nil, m.(*keytreev1.Resolution)) }},
		{&keytreev1.Event{}, func(m proto.Message) []byte { return appendEvent(nil, m.(*keytreev1.Event)) }},
		{&keytreev1.BlockEvents{}, func(m proto.Message) []byte {
			block := m.(*keytreev1.BlockEvents)
			b := appendBlockStart(nil, block)
			for i, event := range block.Events {
				if i > 0 {
					b = append(b, ',')
				}
				b = appendEvent(b, event)
			}
			return appendBlockEnd(b, block.More)
		}},
	} {
		t.Run(string(test.empty.ProtoReflect().Descriptor().Name()), rapid.MakeCheck(func(t *rapid.T) {
			message := test.empty.ProtoReflect().New()
			draw(t, message, 2)
			text, err := rest.JSON.Marshal(message.Interface())
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := json.Unmarshal(text, &want); err != nil {
				t.Fatal(err)
			}
			direct := test.append(message.Interface())
			if err := json.Unmarshal(direct, &got); err != nil {
				t.Fatalf("%v: %s", err, direct)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s\nwant\n%s", direct, text)
			}
		}))
	}
}

// TestPlainText puts each byte at each place of texts of several lengths.
func TestPlainText(t *testing.T) {
	for length := range 20 {
		for i := range length {
			for _, others := range []byte{' ', 'a', '~'} {
				text := bytes.Repeat([]byte{others}, length)
				for c := range 256 {
					text[i] = byte(c)
					if got, want := isPlain(text), c >= ' ' && c < 0x7f && c != '"' && c != '\\'; got != want {
						t.Fatalf("%q: %t, want %t", text, got, want)
					}
				}
			}
		}
	}
}

// draw sets the fields of a message, some of them, and of those that are messages so many levels deep:
// one may be in itself.
func draw(t *rapid.T, m protoreflect.Message, levels int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch name := string(field.Name()); {
		case field.Message() != nil && levels == 0:
		case field.IsList():
			list := m.Mutable(field).List()
			for range rapid.IntRange(0, 3).Draw(t, name) {
				if field.Message() != nil {
					draw(t, list.AppendMutable().Message(), levels-1)
				} else {
					list.Append(drawScalar(t, field))
				}
			}
		case !rapid.Bool().Draw(t, name+" is set"):
		case field.Message() != nil:
			draw(t, m.Mutable(field).Message(), levels-1)
		default:
			m.Set(field, drawScalar(t, field))
		}
	}
}

func drawScalar(t *rapid.T, field protoreflect.FieldDescriptor) protoreflect.Value {
	name := string(field.Name())
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.OneOf(rapid.StringMatching(`[a-z0-9:]{0,60}`), rapid.String()).Draw(t, name))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 33).Draw(t, name))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, name))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, name))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, name))
	}
	t.Fatalf("%s has the kind %v, of which nothing is drawn yet", field.FullName(), field.Kind())
	panic("not reached")
}
