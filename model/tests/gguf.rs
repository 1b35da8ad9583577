//! GGUF files that are as they should be: read, written, read again.

use std::{borrow::Cow, fs, path::Path};
use tritlab_model::{
    Error,
    gguf::{Array, Gguf, TensorInfo, TensorType, Value, ValueType, Writer},
};

type WriteResult = Result<(), tritlab_model::gguf::WriteError>;

/// A file written by the `gguf` Python package, independent of this crate.
fn fixture(name: &str) -> Gguf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures");
    Gguf::open(folder.join(name).join("model.gguf")).unwrap()
}

/// All metadata and tensors of `gguf`, to be written.
fn copy(gguf: &Gguf) -> Writer<'_> {
    let mut writer = Writer::new();
    writer.copy_metadata(gguf.metadata()).unwrap();
    for info in gguf.tensors() {
        writer.tensor(info.name(), info.tensor_type(), info.dims()).unwrap();
    }
    writer
}

fn assert_same(a: &Gguf, b: &Gguf) {
    assert!(a.metadata().iter().eq(b.metadata().iter()));
    assert_eq!(a.tensors().len(), b.tensors().len());
    for (x, y) in a.tensors().iter().zip(b.tensors()) {
        assert_eq!((x.name(), x.tensor_type(), x.dims()), (y.name(), y.tensor_type(), y.dims()));
        assert_eq!(a.data(x), b.data(y), "{}", x.name());
    }
}

#[test]
fn a_copy_of_a_peers_file_is_the_same() {
    for name in ["llama", "qwen3", "bitnet-gguf-tq1_0", "bitnet-gguf-tq2_0"] {
        let original = fixture(name);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy.gguf");
        let fill = |info: &TensorInfo, out: &mut dyn std::io::Write| {
            out.write_all(original.data(original.tensor(info.name()).unwrap()))
        };
        copy(&original).write(&path, fill).unwrap();
        let written = Gguf::open(&path).unwrap();
        assert_same(&original, &written);
        assert_eq!(written.version(), 3);

        // Writing what was written changes nothing any more, and leaves no temporary file.
        let before = fs::read(&path).unwrap();
        copy(&written).write(&path, fill).unwrap(); // over a file that is mapped
        assert_eq!(before, fs::read(&path).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_same(&original, &written); // the mapping still sees the old file
    }
}

#[test]
fn tensors_of_a_peers_file() {
    let gguf = fixture("bitnet-gguf-tq2_0");
    let info = gguf.tensor("blk.0.attn_q.weight").unwrap();
    assert_eq!(info.tensor_type(), TensorType::TQ2_0);
    assert_eq!(info.nbytes(), info.elements() / 256 * 66); // 66 bytes per 256 weights
    assert_eq!(gguf.data(info).len() as u64, info.nbytes());
    assert!(gguf.tensor("blk.0").is_none());
    assert_eq!(gguf.metadata().require::<Cow<str>>("tokenizer.ggml.model").unwrap(), "no_vocab");
}

/// All types in one small file.
fn all_values() -> Writer<'static> {
    let mut writer = Writer::new();
    let values: [(&str, Value<'static>); 16] = [
        ("u8", 200u8.into()),
        ("i8", (-100i8).into()),
        ("u16", 60_000u16.into()),
        ("i16", (-30_000i16).into()),
        ("u32", 4_000_000_000u32.into()),
        ("i32", (-2_000_000_000i32).into()),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
        ("f32", 0.1f32.into()),
        ("f64", 0.1f64.into()),
        ("bool", true.into()),
        ("string", "Äpfel".into()),
        ("strings", Array::from_strings(["a", "", "▁🚀"]).into()),
        ("u32s", Array::from_u32(&[1, 2, u32::MAX]).into()),
        ("i32s", Array::from_i32(&[-1, 2]).into()),
        ("f32s", Array::from_f32(&[0.5, -0.0]).into()),
    ];
    for (key, value) in values {
        writer.set(key, value).unwrap();
    }
    writer
}

fn in_memory(writer: &Writer<'_>) -> Gguf {
    let mut bytes = Vec::new();
    let fill = |info: &TensorInfo, out: &mut dyn std::io::Write| {
        out.write_all(&vec![7; info.nbytes() as usize])
    };
    writer.write_to(&mut bytes, fill).unwrap();
    Gguf::from_bytes(bytes).unwrap()
}

#[test]
fn integers_of_any_width_that_fit() {
    let gguf = in_memory(&all_values());
    let m = gguf.metadata();
    assert_eq!(m.require::<u32>("u8").unwrap(), 200);
    assert_eq!(m.require::<usize>("u16").unwrap(), 60_000);
    assert_eq!(m.require::<u64>("u64").unwrap(), u64::MAX);
    assert_eq!(m.require::<i32>("i8").unwrap(), -100);
    assert_eq!(m.require::<f32>("f64").unwrap(), 0.1);
    assert_eq!(m.require::<f32>("i16").unwrap(), -30_000.0);
    assert_eq!(m.require::<Vec<usize>>("u32s").unwrap(), [1, 2, u32::MAX as usize]);
    assert_eq!(m.require::<Vec<usize>>("u8").unwrap(), [200]); // one for all layers
    assert_eq!(m.require::<Vec<f32>>("f32s").unwrap(), [0.5, -0.0]);
    assert_eq!(m.require::<String>("string").unwrap(), "Äpfel");
    assert!(m.require::<bool>("bool").unwrap());
    let strings = m.require::<Array>("strings").unwrap();
    assert_eq!(strings.strings().unwrap().collect::<Vec<_>>(), ["a", "", "▁🚀"]);
    assert_eq!(strings.element(), ValueType::String);
    assert_eq!(m.optional::<u32>("absent").unwrap(), None);
    assert_eq!(m.len(), m.iter().len());
}

#[test]
fn a_wrong_type_names_key_and_value() {
    let gguf = in_memory(&all_values());
    let m = gguf.metadata();
    match m.require::<u32>("u64").unwrap_err() {
        Error::WrongType { key, expected, found } => {
            assert_eq!(key, "u64");
            assert_eq!(expected, "an integer from 0 to 2^32 - 1");
            assert_eq!(found, "u64 18446744073709551615");
        }
        other => panic!("{other}"),
    }
    let wrong = |result: Error| matches!(result, Error::WrongType { .. });
    assert!(wrong(m.require::<u64>("i8").unwrap_err()));
    assert!(wrong(m.require::<u64>("f32").unwrap_err()));
    assert!(wrong(m.require::<bool>("u8").unwrap_err()));
    assert!(wrong(m.require::<Vec<usize>>("i32s").unwrap_err()));
    assert!(wrong(m.require::<Vec<f32>>("strings").unwrap_err()));
    assert!(wrong(m.optional::<String>("f64").unwrap_err()));
    let missing = m.require::<u32>("absent").unwrap_err();
    assert!(matches!(missing, Error::MissingKey { key } if key == "absent"));
}

#[test]
fn the_table_of_types() {
    for (i, &ty) in TensorType::ALL.iter().enumerate() {
        assert_eq!(TensorType::from_id(ty as u32), Some(ty));
        assert!(i == 0 || (TensorType::ALL[i - 1] as u32) < ty as u32, "{ty} is out of order");
    }
    // Withdrawn from ggml, or never given.
    for id in [4, 5, 31, 32, 33, 37, 38, 43, 133, 136, u32::MAX] {
        assert_eq!(TensorType::from_id(id), None);
    }
    // Shapes with a known size: type, dimensions, bytes.
    let sizes: [(TensorType, &[u64], u64); 9] = [
        (TensorType::F32, &[], 4),                         // a scalar
        (TensorType::F16, &[3, 5], 30),                    // two bytes each
        (TensorType::Q4_0, &[64, 3], 2 * 18 * 3),          // two blocks of 18 per row
        (TensorType::TQ1_0, &[256, 2, 3], 54 * 6),         // one block per row
        (TensorType::I2_S, &[128, 4], 128 + 32), // a quarter byte each, then scale and padding
        (TensorType::IQ1_BN, &[128, 2], 2 * (2 + 2 * 13)), // a row scale, two blocks
        (TensorType::IQ2_BN, &[64, 2], 2 * (4 + 16)), // a row scale, one block
        (TensorType::IQ2_BN_R4, &[64, 4], 4 * (4 + 16)), // four rows together
        (TensorType::NVFP4, &[64, 1, 1, 2], 72), // four dimensions
    ];
    let mut writer = Writer::new();
    for (i, (ty, dims, _)) in sizes.iter().enumerate() {
        writer.tensor(&format!("t{i}"), *ty, dims).unwrap();
    }
    let gguf = in_memory(&writer);
    for (info, (ty, dims, nbytes)) in gguf.tensors().iter().zip(sizes) {
        assert_eq!((info.tensor_type(), info.dims(), info.nbytes()), (ty, dims, nbytes));
        assert_eq!(info.elements(), dims.iter().product::<u64>());
        assert_eq!(info.offset() % 32, 0);
        assert_eq!(gguf.data(info), vec![7; nbytes as usize]);
    }
}

#[test]
fn what_a_writer_refuses() {
    let mut writer = Writer::new();
    let name = "n".repeat(64); // ggml keeps 64 bytes with the terminator
    let error = writer.tensor(&name, TensorType::F32, &[1]).unwrap_err();
    assert!(matches!(error, Error::BadName { what: "tensor name", .. }));
    let error = writer.tensor("t", TensorType::Q4_0, &[33]).unwrap_err(); // no multiple of 32
    assert!(matches!(error, Error::BadShape { .. }));
    let error = writer.tensor("t", TensorType::F32, &[1; 5]).unwrap_err();
    assert!(matches!(error, Error::TooMany { count: 5, limit: 4, .. }));
    assert!(matches!(writer.set("", 1u32).unwrap_err(), Error::BadName { .. }));
    let error = writer.set("general.alignment", 64u32).unwrap_err();
    assert!(matches!(error, Error::BadAlignment { alignment: 64 }));

    writer.tensor("t", TensorType::F32, &[2]).unwrap();
    for got in [0, 7, 9] {
        let fill = |_: &TensorInfo, out: &mut dyn std::io::Write| out.write_all(&vec![0; got]);
        let error = writer.write_to(&mut Vec::new(), fill).unwrap_err();
        match error {
            Error::TensorSize { tensor, expected: 8, got: g } => {
                assert_eq!((tensor.as_str(), g), ("t", got as u64));
            }
            other => panic!("{other}"),
        }
    }
    writer.tensor("t", TensorType::F32, &[2]).unwrap();
    let nothing = |_: &TensorInfo, _: &mut dyn std::io::Write| -> WriteResult { Ok(()) };
    let error = writer.write_to(&mut Vec::new(), nothing).unwrap_err();
    assert!(matches!(error, Error::DuplicateName { what: "tensor name", .. }));
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, "old").unwrap();
    let mut writer = Writer::new();
    writer.tensor("t", TensorType::F32, &[2]).unwrap();
    let fail = |_: &TensorInfo, _: &mut dyn std::io::Write| -> WriteResult {
        Err(Error::MissingTensor { name: "t".to_owned() }.into())
    };
    let error = writer.write(&path, fail).unwrap_err();
    assert!(matches!(error, Error::MissingTensor { name } if name == "t"));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let nowhere = folder.path().join("absent").join("model.gguf");
    let error = writer.write(&nowhere, fail).unwrap_err();
    assert!(matches!(error, Error::Io { path, .. } if path.ends_with("absent")));
}

#[cfg(unix)]
#[test]
fn a_written_file_has_the_usual_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let usual = folder.path().join("usual");
    fs::write(&usual, "").unwrap();
    let path = folder.path().join("model.gguf");
    let nothing = |_: &TensorInfo, _: &mut dyn std::io::Write| -> WriteResult { Ok(()) };
    Writer::new().write(&path, nothing).unwrap();
    assert_eq!(mode(&path), mode(&usual));
}

#[test]
fn a_missing_file_is_named() {
    let error = Gguf::open("/nonexistent/model.gguf").unwrap_err();
    assert!(error.to_string().contains("/nonexistent/model.gguf"), "{error}");
}

#[test]
fn an_alignment_of_its_own() {
    // By hand: version 2, one key, one tensor, data at a multiple of 64.
    let mut bytes = b"GGUF\x02\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    bytes.extend(17u64.to_le_bytes()); // length of the key
    bytes.extend(b"general.alignment\x04\0\0\0\x40\0\0\0"); // u32 64
    bytes.extend(b"\x01\0\0\0\0\0\0\0t\x01\0\0\0\x02\0\0\0\0\0\0\0\x18\0\0\0"); // i8 [2]
    bytes.extend(64u64.to_le_bytes()); // its offset
    bytes.resize(128 + 64, 0); // the infos end before byte 128
    bytes.extend([1, 2]);
    let gguf = Gguf::from_bytes(bytes).unwrap();
    assert_eq!((gguf.version(), gguf.alignment(), gguf.file_size()), (2, 64, 194));
    assert_eq!(gguf.data(&gguf.tensors()[0]), [1, 2]);

    // A copy has the writer's alignment, and says nothing of the old one.
    let fill = |info: &TensorInfo, out: &mut dyn std::io::Write| out.write_all(gguf.data(info));
    let mut out = Vec::new();
    copy(&gguf).write_to(&mut out, |_, sink| fill(&gguf.tensors()[0], sink)).unwrap();
    let copied = Gguf::from_bytes(out).unwrap();
    assert_eq!((copied.alignment(), copied.metadata().len()), (32, 0));
    assert_eq!(copied.data(&copied.tensors()[0]), [1, 2]);
}

/// A rename over a device or a folder would replace it.
#[cfg(unix)]
#[test]
fn only_files_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let none = |_: &TensorInfo, _: &mut dyn std::io::Write| Ok::<(), std::io::Error>(());
    for path in [folder.path(), Path::new("/dev/null")] {
        assert!(matches!(Writer::new().write(path, none), Err(Error::Io { .. })), "{path:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
