/* Pictures from a file or the clipboard, as data URLs: what /v1/chat/completions takes. Nothing leaves this page before it is sent. */

const MOST_BYTES = 15 * 1024 * 1024; // with base64's third more, well below the gateway's default body of 64 MiB

/** The pictures among what is pasted. */
export function picturesIn(clipboard) {
  return [...(clipboard?.items ?? [])].filter((item) => item.kind === "file" && item.type.startsWith("image/")).map((item) => item.getAsFile());
}

/** {urls, refused}: what can be sent, and words for what cannot. */
export async function readPictures(files) {
  const urls = [];
  const refused = [];
  for (const file of files) {
    if (!file.type.startsWith("image/")) refused.push(`${file.name} is no picture.`);
    else if (file.size > MOST_BYTES) refused.push(`${file.name} is larger than ${MOST_BYTES / 1024 / 1024} MiB.`);
    else urls.push(await dataUrl(file));
  }
  return { urls, refused };
}

function dataUrl(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}
